"""The tables of a SQLite trace store, and how an older file gets them."""

from rs_gateway.adapters.sqlite_schema import Schema

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE traces (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            trace_id TEXT NOT NULL UNIQUE,
            started_at REAL NOT NULL,
            template_id TEXT,
            version INTEGER,
            combination_id TEXT,
            provider TEXT,
            model TEXT,
            request_model TEXT NOT NULL,
            response_model TEXT,
            outcome TEXT NOT NULL,
            error_code TEXT,
            finish_reason TEXT,
            stream INTEGER NOT NULL,
            latency_s REAL NOT NULL,
            time_to_first_token_s REAL,
            input_tokens INTEGER,
            output_tokens INTEGER,
            usage_source TEXT NOT NULL,
            cost_usd REAL,
            end_user TEXT,
            key_id TEXT,
            decision TEXT,
            attempts TEXT NOT NULL
        )""",
        """CREATE TABLE trace_payloads (
            trace_id TEXT PRIMARY KEY,
            request_messages TEXT NOT NULL,
            variables TEXT NOT NULL,
            parameters TEXT NOT NULL,
            rendered_messages TEXT NOT NULL,
            response TEXT
        )""",
        """CREATE TABLE feedback (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            feedback_id TEXT NOT NULL UNIQUE,
            trace_id TEXT NOT NULL,
            kind TEXT NOT NULL,
            value TEXT NOT NULL,
            source TEXT NOT NULL,
            created_at REAL NOT NULL
        )""",
    ),
    (
        "ALTER TABLE traces ADD COLUMN endpoint TEXT NOT NULL DEFAULT 'chat.completions'",
        "ALTER TABLE traces ADD COLUMN cached_input_tokens INTEGER",
        "ALTER TABLE traces ADD COLUMN reasoning_tokens INTEGER",
        "ALTER TABLE traces ADD COLUMN cache_write_tokens INTEGER",
        # Traces and payloads expire by their id, a ULID, so the index that they have already serves retention.
        "CREATE INDEX feedback_by_age ON feedback (created_at)",
        "CREATE INDEX feedback_by_kind ON feedback (kind, seq)",
        # One row a period and key; '' and 0 stand for "none", since NULLs are never equal in a key.
        """CREATE TABLE stats (
            period_s INTEGER NOT NULL,
            start_s INTEGER NOT NULL,
            template_id TEXT NOT NULL,
            version INTEGER NOT NULL,
            combination_id TEXT NOT NULL,
            provider TEXT NOT NULL,
            model TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            figures BLOB NOT NULL,
            PRIMARY KEY (period_s, start_s, template_id, version, combination_id, provider, model, endpoint)
        )""",
    ),
    ("ALTER TABLE traces ADD COLUMN parsed INTEGER",),
)
"""Forward only: entry n takes a store from schema n to n + 1. Never edit one that was released; append."""

TRACE_SCHEMA = Schema("trace store", "stores.traces", MIGRATIONS)
