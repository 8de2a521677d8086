PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT, input_tokens INTEGER, output_tokens INTEGER) WITHOUT ROWID;
INSERT INTO "answers" VALUES('028a2272257adc3db527f086f6a231322da1a626e35840e6a03a469a2fd845cc','I think that it has a number.','stop',59,7);
INSERT INTO "answers" VALUES('031896d5da22137ebaae0e1c3d802e5fe6a5568b75093e8c2d57f3aa9f53445a','DY-1685','stop',78,1);
CREATE TABLE spending (account TEXT PRIMARY KEY, calls INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL);
INSERT INTO "spending" VALUES('bdf88b343e6e2c26',56,3490,202);
COMMIT;
