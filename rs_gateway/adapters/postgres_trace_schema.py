"""The tables of a trace store in Postgres, how an older one gets them, and the order in which its rows are read.

A sequence that is drawn while a row is written says nothing about when the row becomes visible: one that is drawn first
may be committed last, and a reader that has passed it would never see it. So the order here is that of transactions. A
row's number is its transaction's, times `ROWS_A_TRANSACTION`, plus its place among the transaction's rows; and readers
stop before the oldest transaction that is still open, since nothing below it can appear any more.

A database that was copied into another cluster counts its transactions anew, perhaps from far below. `trace_sequence`
holds what is added to them, and whoever opens the store to write raises it until new rows come after the old ones.
"""

from rs_gateway.adapters.postgres_schema import PostgresSchema

ROWS_A_TRANSACTION = 65_536

OWN_NUMBER = "(SELECT base + pg_current_xact_id()::text::bigint * 65536 FROM route_switch.trace_sequence)"
"""SQL for the number of the first row that the current transaction writes."""
SETTLED_BEFORE = (
    "(SELECT base + pg_snapshot_xmin(pg_current_snapshot())::text::bigint * 65536 FROM route_switch.trace_sequence)"
)
"""SQL for the number that no row which is yet to appear is below."""

MIGRATIONS = (
    (
        # Retention compares ids as bytes, whatever the database's own order of texts is.
        """CREATE TABLE route_switch.traces (
            seq BIGINT PRIMARY KEY,
            trace_id TEXT COLLATE "C" NOT NULL UNIQUE,
            started_at DOUBLE PRECISION NOT NULL,
            template_id TEXT,
            version BIGINT,
            combination_id TEXT,
            provider TEXT,
            model TEXT,
            request_model TEXT NOT NULL,
            response_model TEXT,
            outcome TEXT NOT NULL,
            error_code TEXT,
            finish_reason TEXT,
            stream SMALLINT NOT NULL,
            latency_s DOUBLE PRECISION NOT NULL,
            time_to_first_token_s DOUBLE PRECISION,
            input_tokens BIGINT,
            output_tokens BIGINT,
            usage_source TEXT NOT NULL,
            cost_usd DOUBLE PRECISION,
            end_user TEXT,
            key_id TEXT,
            endpoint TEXT NOT NULL,
            cached_input_tokens BIGINT,
            reasoning_tokens BIGINT,
            cache_write_tokens BIGINT,
            parsed SMALLINT,
            decision TEXT,
            attempts TEXT NOT NULL
        )""",
        """CREATE TABLE route_switch.trace_payloads (
            trace_id TEXT COLLATE "C" PRIMARY KEY,
            request_messages TEXT NOT NULL,
            variables TEXT NOT NULL,
            parameters TEXT NOT NULL,
            rendered_messages TEXT NOT NULL,
            response TEXT
        )""",
        """CREATE TABLE route_switch.feedback (
            seq BIGINT PRIMARY KEY,
            feedback_id TEXT COLLATE "C" NOT NULL UNIQUE,
            trace_id TEXT COLLATE "C" NOT NULL,
            kind TEXT NOT NULL,
            value TEXT NOT NULL,
            source TEXT NOT NULL,
            created_at DOUBLE PRECISION NOT NULL
        )""",
        "CREATE INDEX feedback_by_age ON route_switch.feedback (created_at)",
        "CREATE INDEX feedback_by_kind ON route_switch.feedback (kind, seq)",
        # One row a period and key; '' and 0 stand for "none", since NULLs are never equal in a key. Rows are written
        # over many times a minute: half of a page is left free, so that an update stays on its page.
        """CREATE TABLE route_switch.stats (
            period_s BIGINT NOT NULL,
            start_s BIGINT NOT NULL,
            template_id TEXT NOT NULL,
            version BIGINT NOT NULL,
            combination_id TEXT NOT NULL,
            provider TEXT NOT NULL,
            model TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            figures BYTEA NOT NULL,
            PRIMARY KEY (period_s, start_s, template_id, version, combination_id, provider, model, endpoint)
        ) WITH (fillfactor = 50)""",
        "CREATE TABLE route_switch.trace_sequence (base BIGINT NOT NULL)",
        "INSERT INTO route_switch.trace_sequence VALUES (0)",
    ),
)
"""Forward only: entry n takes a store from schema n to n + 1. Never edit one that was released; append."""

TRACE_SCHEMA = PostgresSchema("trace store", "stores.traces", MIGRATIONS)
