PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT, input_tokens INTEGER, output_tokens INTEGER, account TEXT, stored_at REAL NOT NULL DEFAULT 0) WITHOUT ROWID;
INSERT INTO "answers" VALUES('0a1b','AX-1234','stop',12,3,'study',1.79570470748763489719e+09);
CREATE TABLE spending (account TEXT PRIMARY KEY, calls INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, booked_tokens INTEGER NOT NULL DEFAULT 0, usd REAL NOT NULL DEFAULT 0);
INSERT INTO "spending" VALUES('study',1,12,3,15,0.0);
COMMIT;
