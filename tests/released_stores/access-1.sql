PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE changes (revision INTEGER NOT NULL);
INSERT INTO "changes" VALUES(1);
CREATE TABLE in_flight (
            worker_id TEXT NOT NULL,
            key_id TEXT NOT NULL,
            requests INTEGER NOT NULL,
            PRIMARY KEY (worker_id, key_id)
        ) WITHOUT ROWID;
CREATE TABLE keys (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            key_id TEXT NOT NULL UNIQUE,
            secret_hash BLOB NOT NULL UNIQUE,
            name TEXT NOT NULL,
            created_at REAL NOT NULL,
            created_by TEXT NOT NULL,
            templates TEXT,
            models TEXT,
            admin INTEGER NOT NULL,
            requests_per_minute INTEGER,
            tokens_per_minute INTEGER,
            concurrency INTEGER,
            budget_usd REAL,
            budget_period TEXT NOT NULL,
            allow_unpriced INTEGER NOT NULL,
            store TEXT,
            expires_at REAL,
            revoked_at REAL,
            requests_full_at REAL NOT NULL DEFAULT 0,
            tokens_full_at REAL NOT NULL DEFAULT 0,
            revision INTEGER NOT NULL
        );
INSERT INTO "keys" VALUES(1,'k1',X'68617368','shop',1740830400.0,'ann',NULL,NULL,0,5,NULL,NULL,2.5,'total',0,NULL,NULL,NULL,0.0,0.0,1);
CREATE TABLE usage (
            key_id TEXT NOT NULL,
            period TEXT NOT NULL,
            requests INTEGER NOT NULL,
            tokens INTEGER NOT NULL,
            cost_usd REAL NOT NULL,
            unpriced_requests INTEGER NOT NULL,
            PRIMARY KEY (key_id, period)
        ) WITHOUT ROWID;
CREATE TABLE workers (worker_id TEXT PRIMARY KEY, batch INTEGER NOT NULL, seen_at REAL NOT NULL);
CREATE INDEX keys_by_revision ON keys (revision);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('keys',1);
COMMIT;
