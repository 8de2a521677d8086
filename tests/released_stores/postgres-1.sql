CREATE SCHEMA route_switch;
CREATE FUNCTION route_switch.count_registry_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$BEGIN UPDATE route_switch.registry SET revision = revision + 1; RETURN NULL; END$$;
CREATE TABLE route_switch.access_changes (
    revision bigint NOT NULL
);
CREATE TABLE route_switch.feedback (
    seq bigint NOT NULL,
    feedback_id text NOT NULL COLLATE pg_catalog."C",
    trace_id text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    value text NOT NULL,
    source text NOT NULL,
    created_at double precision NOT NULL
);
CREATE TABLE route_switch.in_flight (
    worker_id text NOT NULL,
    key_id text NOT NULL,
    requests bigint NOT NULL
);
CREATE TABLE route_switch.keys (
    seq bigint NOT NULL,
    key_id text NOT NULL,
    secret_hash bytea NOT NULL,
    name text NOT NULL,
    created_at double precision NOT NULL,
    created_by text NOT NULL,
    templates text,
    models text,
    admin smallint NOT NULL,
    requests_per_minute bigint,
    tokens_per_minute bigint,
    concurrency bigint,
    budget_usd double precision,
    budget_period text NOT NULL,
    allow_unpriced smallint NOT NULL,
    store text,
    expires_at double precision,
    revoked_at double precision,
    requests_full_at double precision DEFAULT 0 NOT NULL,
    tokens_full_at double precision DEFAULT 0 NOT NULL,
    revision bigint NOT NULL
);
ALTER TABLE route_switch.keys ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME route_switch.keys_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE route_switch.registry (
    identity uuid NOT NULL,
    revision bigint NOT NULL
);
CREATE TABLE route_switch.schema_versions (
    store text NOT NULL,
    version integer NOT NULL
);
CREATE TABLE route_switch.stats (
    period_s bigint NOT NULL,
    start_s bigint NOT NULL,
    template_id text NOT NULL,
    version bigint NOT NULL,
    combination_id text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    endpoint text NOT NULL,
    figures bytea NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE route_switch.template_versions (
    template_id text NOT NULL COLLATE pg_catalog."C",
    number integer NOT NULL,
    content json NOT NULL,
    added_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT template_versions_number_check CHECK ((number > 0))
);
CREATE TABLE route_switch.templates (
    template_id text NOT NULL COLLATE pg_catalog."C",
    facts json NOT NULL,
    live json NOT NULL
);
CREATE TABLE route_switch.trace_payloads (
    trace_id text NOT NULL COLLATE pg_catalog."C",
    request_messages text NOT NULL,
    variables text NOT NULL,
    parameters text NOT NULL,
    rendered_messages text NOT NULL,
    response text
);
CREATE TABLE route_switch.trace_sequence (
    base bigint NOT NULL
);
CREATE TABLE route_switch.traces (
    seq bigint NOT NULL,
    trace_id text NOT NULL COLLATE pg_catalog."C",
    started_at double precision NOT NULL,
    template_id text,
    version bigint,
    combination_id text,
    provider text,
    model text,
    request_model text NOT NULL,
    response_model text,
    outcome text NOT NULL,
    error_code text,
    finish_reason text,
    stream smallint NOT NULL,
    latency_s double precision NOT NULL,
    time_to_first_token_s double precision,
    input_tokens bigint,
    output_tokens bigint,
    usage_source text NOT NULL,
    cost_usd double precision,
    end_user text,
    key_id text,
    endpoint text NOT NULL,
    cached_input_tokens bigint,
    reasoning_tokens bigint,
    cache_write_tokens bigint,
    parsed smallint,
    decision text,
    attempts text NOT NULL
);
CREATE TABLE route_switch.usage (
    key_id text NOT NULL,
    period text NOT NULL,
    requests bigint NOT NULL,
    tokens bigint NOT NULL,
    cost_usd double precision NOT NULL,
    unpriced_requests bigint NOT NULL
);
CREATE TABLE route_switch.workers (
    worker_id text NOT NULL,
    batch bigint NOT NULL,
    seen_at double precision NOT NULL
);
INSERT INTO route_switch.access_changes VALUES (2);
INSERT INTO route_switch.feedback VALUES (74055680, 'f-01JN8XXXXXXXXXXXXXXXXXXXX1', '01JN8XXXXXXXXXXXXXXXXXXXX1', 'comment', '"good"', 'human', 1);
INSERT INTO route_switch.in_flight VALUES ('w', 'k1', 1);
INSERT INTO route_switch.keys OVERRIDING SYSTEM VALUE VALUES (1, 'k1', '\x3131313131313131313131313131313131313131313131313131313131313131', 'shop', 1772366400, 'ann', NULL, NULL, 0, 60, NULL, NULL, 5, 'total', 0, NULL, NULL, NULL, 1772366402, 0, 2);
INSERT INTO route_switch.registry VALUES ('fa690b16-2256-4673-8aa8-9f055507c942', 4);
INSERT INTO route_switch.schema_versions VALUES ('trace store', 1);
INSERT INTO route_switch.schema_versions VALUES ('access store', 1);
INSERT INTO route_switch.schema_versions VALUES ('prompt registry', 1);
INSERT INTO route_switch.stats VALUES (3600, 1772366400, 'parcels', 1, 'parcels@tiny', 'local', 'tiny', 'chat.completions', '\xde0012a8726571756573747302a86f7574636f6d657381a8636f6d706c65746502a66572726f727380a77265747269657300a966616c6c6261636b7300ac696e7075745f746f6b656e7300ad6f75747075745f746f6b656e7300b36361636865645f696e7075745f746f6b656e7300b263616368655f77726974655f746f6b656e7300b0726561736f6e696e675f746f6b656e7300af75736167655f657374696d6174656400ad75736167655f756e6b6e6f776e02aa756e7061727361626c6500a8636f73745f757364cb0000000000000000a670726963656400a8756e70726963656402a76c6174656e637985a76275636b65747381d08d02a96e5f696e7374616e7400a5636f756e7402a573756d5f73cb3fc999999999999aa56d61785f73cb3fb999999999999aab66697273745f746f6b656e85a76275636b65747380a96e5f696e7374616e7400a5636f756e7400a573756d5f73cb0000000000000000a56d61785f73cb0000000000000000');
INSERT INTO route_switch.stats VALUES (0, 0, 'parcels', 1, 'parcels@tiny', 'local', 'tiny', 'chat.completions', '\xde0012a8726571756573747302a86f7574636f6d657381a8636f6d706c65746502a66572726f727380a77265747269657300a966616c6c6261636b7300ac696e7075745f746f6b656e7300ad6f75747075745f746f6b656e7300b36361636865645f696e7075745f746f6b656e7300b263616368655f77726974655f746f6b656e7300b0726561736f6e696e675f746f6b656e7300af75736167655f657374696d6174656400ad75736167655f756e6b6e6f776e02aa756e7061727361626c6500a8636f73745f757364cb0000000000000000a670726963656400a8756e70726963656402a76c6174656e637985a76275636b65747381d08d02a96e5f696e7374616e7400a5636f756e7402a573756d5f73cb3fc999999999999aa56d61785f73cb3fb999999999999aab66697273745f746f6b656e85a76275636b65747380a96e5f696e7374616e7400a5636f756e7400a573756d5f73cb0000000000000000a56d61785f73cb0000000000000000');
INSERT INTO route_switch.stats VALUES (60, 1772366400, 'parcels', 1, 'parcels@tiny', 'local', 'tiny', 'chat.completions', '\xde0012a8726571756573747301a86f7574636f6d657381a8636f6d706c65746501a66572726f727380a77265747269657300a966616c6c6261636b7300ac696e7075745f746f6b656e7300ad6f75747075745f746f6b656e7300b36361636865645f696e7075745f746f6b656e7300b263616368655f77726974655f746f6b656e7300b0726561736f6e696e675f746f6b656e7300af75736167655f657374696d6174656400ad75736167655f756e6b6e6f776e01aa756e7061727361626c6500a8636f73745f757364cb0000000000000000a670726963656400a8756e70726963656401a76c6174656e637985a76275636b65747381d08d01a96e5f696e7374616e7400a5636f756e7401a573756d5f73cb3fb999999999999aa56d61785f73cb3fb999999999999aab66697273745f746f6b656e85a76275636b65747380a96e5f696e7374616e7400a5636f756e7400a573756d5f73cb0000000000000000a56d61785f73cb0000000000000000');
INSERT INTO route_switch.template_versions VALUES ('parcels', 1, '{"content_hash": "1414b09489900f5be4f43116dd3ab483eebcb867fd42bc7915a2a7c2ee1f48ac", "origin": {"kind": "registered", "by": "ann", "at": "2026-03-01T12:00:00+00:00"}, "instruction": "Sort it.", "demos": []}', '2026-11-26 15:08:39.256339+00');
INSERT INTO route_switch.template_versions VALUES ('parcels', 2, '{"content_hash": "fee716db0fc6c92b5e7b3df69b6137703221e871f85a6a8f1903552b4aa733a0", "model": "tiny", "origin": {"kind": "registered", "by": "ann", "at": "2026-03-01T12:00:00+00:00"}, "instruction": "Sort it well.", "user": "{text}", "demos": [{"user": "a", "assistant": "b"}]}', '2026-11-26 15:08:39.260475+00');
INSERT INTO route_switch.templates VALUES ('parcels', '{"name": "Parcels", "variables": ["text"], "evaluator": {"name": "ExactMatch"}, "default": false}', '{"serving": {"*": 1, "tiny": 2}, "weights": {}, "history": [{"action": "register", "version": 1, "by": "ann", "at": "2026-03-01T12:00:00+00:00", "reason": "registered"}, {"action": "publish", "version": 2, "model": "tiny", "by": "ann", "at": "2026-03-02T12:00:00+00:00", "reason": "better", "previous": 1}]}');
INSERT INTO route_switch.trace_payloads VALUES ('01JN8XXXXXXXXXXXXXXXXXXXX1', '[{"role":"user","content":"hello"}]', '{}', '{}', '[{"role":"user","content":"hello"}]', '{"role":"assistant","content":"hello"}');
INSERT INTO route_switch.trace_payloads VALUES ('01JN8XXXXXXXXXXXXXXXXXXXX2', '[{"role":"user","content":"hello"}]', '{}', '{}', '[{"role":"user","content":"hello"}]', '{"role":"assistant","content":"hello"}');
INSERT INTO route_switch.trace_sequence VALUES (0);
INSERT INTO route_switch.traces VALUES (73859072, '01JN8XXXXXXXXXXXXXXXXXXXX1', 1772366400, 'parcels', 1, 'parcels@tiny', 'local', 'tiny', 'm', NULL, 'complete', NULL, NULL, 0, 0.1, NULL, NULL, NULL, 'unknown', NULL, 'ann', NULL, 'chat.completions', NULL, NULL, NULL, NULL, NULL, '[]');
INSERT INTO route_switch.traces VALUES (73990144, '01JN8XXXXXXXXXXXXXXXXXXXX2', 1772366400, 'parcels', 1, 'parcels@tiny', 'local', 'tiny', 'm', NULL, 'complete', NULL, NULL, 0, 0.1, NULL, NULL, NULL, 'unknown', NULL, 'ann', NULL, 'chat.completions', NULL, NULL, NULL, NULL, NULL, '[]');
INSERT INTO route_switch.usage VALUES ('k1', 'total', 2, 30, 0.5, 0);
INSERT INTO route_switch.usage VALUES ('k1', '2026-03-01', 2, 30, 0.5, 0);
INSERT INTO route_switch.usage VALUES ('k1', '2026-03', 2, 30, 0.5, 0);
INSERT INTO route_switch.workers VALUES ('w', 1, 1772366400);
SELECT pg_catalog.setval('route_switch.keys_seq_seq', 1, true);
ALTER TABLE ONLY route_switch.feedback
    ADD CONSTRAINT feedback_feedback_id_key UNIQUE (feedback_id);
ALTER TABLE ONLY route_switch.feedback
    ADD CONSTRAINT feedback_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY route_switch.in_flight
    ADD CONSTRAINT in_flight_pkey PRIMARY KEY (worker_id, key_id);
ALTER TABLE ONLY route_switch.keys
    ADD CONSTRAINT keys_key_id_key UNIQUE (key_id);
ALTER TABLE ONLY route_switch.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY route_switch.keys
    ADD CONSTRAINT keys_secret_hash_key UNIQUE (secret_hash);
ALTER TABLE ONLY route_switch.schema_versions
    ADD CONSTRAINT schema_versions_pkey PRIMARY KEY (store);
ALTER TABLE ONLY route_switch.stats
    ADD CONSTRAINT stats_pkey PRIMARY KEY (period_s, start_s, template_id, version, combination_id, provider, model, endpoint);
ALTER TABLE ONLY route_switch.template_versions
    ADD CONSTRAINT template_versions_pkey PRIMARY KEY (template_id, number);
ALTER TABLE ONLY route_switch.templates
    ADD CONSTRAINT templates_pkey PRIMARY KEY (template_id);
ALTER TABLE ONLY route_switch.trace_payloads
    ADD CONSTRAINT trace_payloads_pkey PRIMARY KEY (trace_id);
ALTER TABLE ONLY route_switch.traces
    ADD CONSTRAINT traces_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY route_switch.traces
    ADD CONSTRAINT traces_trace_id_key UNIQUE (trace_id);
ALTER TABLE ONLY route_switch.usage
    ADD CONSTRAINT usage_pkey PRIMARY KEY (key_id, period);
ALTER TABLE ONLY route_switch.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id);
CREATE INDEX feedback_by_age ON route_switch.feedback USING btree (created_at);
CREATE INDEX feedback_by_kind ON route_switch.feedback USING btree (kind, seq);
CREATE INDEX keys_by_revision ON route_switch.keys USING btree (revision);
CREATE TRIGGER counted AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON route_switch.template_versions FOR EACH STATEMENT EXECUTE FUNCTION route_switch.count_registry_change();
CREATE TRIGGER counted AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON route_switch.templates FOR EACH STATEMENT EXECUTE FUNCTION route_switch.count_registry_change();
ALTER TABLE ONLY route_switch.template_versions
    ADD CONSTRAINT template_versions_template_id_fkey FOREIGN KEY (template_id) REFERENCES route_switch.templates(template_id) ON DELETE CASCADE;
