PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE feedback (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            feedback_id TEXT NOT NULL UNIQUE,
            trace_id TEXT NOT NULL,
            kind TEXT NOT NULL,
            value TEXT NOT NULL,
            source TEXT NOT NULL,
            created_at REAL NOT NULL
        );
INSERT INTO "feedback" VALUES(1,'f0','01JN8XXXXXXXXXXXXXXXXXXXX1','label','"AX-1230"','human:ann',1740830410.0);
INSERT INTO "feedback" VALUES(2,'f1','01JN8XXXXXXXXXXXXXXXXXXXX2','label','"AX-1231"','human:ann',1740830410.0);
CREATE TABLE trace_payloads (
            trace_id TEXT PRIMARY KEY,
            request_messages TEXT NOT NULL,
            variables TEXT NOT NULL,
            parameters TEXT NOT NULL,
            rendered_messages TEXT NOT NULL,
            response TEXT
        );
INSERT INTO "trace_payloads" VALUES('01JN8XXXXXXXXXXXXXXXXXXXX1','[{"role":"user","content":"Where is parcel AX-1234?"}]','{"message":"parcel AX-1230"}','{"temperature":0}','[{"role":"user","content":"Where is parcel AX-1234?"}]','{"role":"assistant","content":"AX-1230"}');
INSERT INTO "trace_payloads" VALUES('01JN8XXXXXXXXXXXXXXXXXXXX2','[{"role":"user","content":"Where is parcel AX-1234?"}]','{"message":"parcel AX-1231"}','{"temperature":0}','[{"role":"user","content":"Where is parcel AX-1234?"}]','{"role":"assistant","content":"AX-1231"}');
CREATE TABLE traces (
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
        );
INSERT INTO "traces" VALUES(1,'01JN8XXXXXXXXXXXXXXXXXXXX1',1740830400.0,'parcels',1,'parcels-tiny','local','tiny','parcels',NULL,'complete',NULL,'stop',0,0.25,NULL,NULL,NULL,'unknown',0.5,'user-0',NULL,NULL,'[]');
INSERT INTO "traces" VALUES(2,'01JN8XXXXXXXXXXXXXXXXXXXX2',1740830401.0,'parcels',1,'parcels-tiny','local','tiny','parcels',NULL,'complete',NULL,'stop',0,0.25,NULL,NULL,NULL,'unknown',0.5,'user-1',NULL,NULL,'[]');
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('traces',2);
INSERT INTO "sqlite_sequence" VALUES('feedback',2);
COMMIT;
