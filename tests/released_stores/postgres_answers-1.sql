CREATE SCHEMA route_switch;
CREATE TABLE route_switch.schema_versions (store text PRIMARY KEY, version integer NOT NULL);
INSERT INTO route_switch.schema_versions VALUES ('answer cache', 1);
CREATE TABLE route_switch.answers (
    key text PRIMARY KEY,
    text text NOT NULL,
    finish_reason text,
    input_tokens bigint,
    output_tokens bigint,
    account text,
    stored_at double precision DEFAULT EXTRACT(epoch FROM now()) NOT NULL
);
CREATE INDEX answers_stored_at ON route_switch.answers USING btree (stored_at);
INSERT INTO route_switch.answers VALUES ('0a1b', 'AX-1234', 'stop', 12, 3, 'study', 1795704707.487635);
CREATE TABLE route_switch.spending (
    account text PRIMARY KEY,
    calls bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    booked_tokens bigint NOT NULL,
    usd double precision NOT NULL
);
INSERT INTO route_switch.spending VALUES ('study', 1, 12, 3, 15, 0.25);
