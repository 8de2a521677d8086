"""The prompt registry in Postgres, shared by gateways and pipelines on several hosts.

Facts, versions and what is live are JSON documents with the fields of the YAML files (`prompt_records.py`). Triggers
count every change of their tables, so that one by hand, in SQL, reaches the gateways too.
"""

import json
from collections.abc import Sequence
from typing import TypeVar

import psycopg
from psycopg import errors
from pydantic import ValidationError

from rs_gateway.adapters.postgres_database import PostgresDatabase, PostgresPlace
from rs_gateway.adapters.postgres_schema import PostgresSchema
from rs_gateway.adapters.prompt_records import (
    LiveRecord,
    Record,
    TemplateRecord,
    VersionRecord,
    explain,
    live_fields,
    not_registered,
    template_fields,
    version_fields,
)
from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import RegistryError, TemplateExistsError, TemplateInvalidError
from rs_gateway.domain.ports import RegistryState
from rs_gateway.domain.prompts import (
    ANY_MODEL,
    Origin,
    PromptTemplate,
    PromptText,
    PromptVersion,
    check_template_id,
    check_text,
    check_variables,
)
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.registered_template import RegisteredTemplate, make_live, number_drafts, set_weight

MIGRATIONS = (
    (
        # JSON and not JSONB: a text may hold a NUL, and the fields stay in the order in which people read them.
        """CREATE TABLE route_switch.templates (
            template_id TEXT COLLATE "C" PRIMARY KEY,
            facts JSON NOT NULL,
            live JSON NOT NULL
        )""",
        """CREATE TABLE route_switch.template_versions (
            template_id TEXT COLLATE "C" NOT NULL REFERENCES route_switch.templates ON DELETE CASCADE,
            number INTEGER NOT NULL CHECK (number > 0),
            content JSON NOT NULL,
            added_at TIMESTAMPTZ NOT NULL DEFAULT now(),
            PRIMARY KEY (template_id, number)
        )""",
        # One row. Whoever counts holds it until the commit, so that no change is ever passed over.
        "CREATE TABLE route_switch.registry (identity UUID NOT NULL, revision BIGINT NOT NULL)",
        "INSERT INTO route_switch.registry VALUES (gen_random_uuid(), 0)",
        """CREATE FUNCTION route_switch.count_registry_change() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE route_switch.registry SET revision = revision + 1; RETURN NULL; END'""",
        """CREATE TRIGGER counted AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON route_switch.templates
            FOR EACH STATEMENT EXECUTE FUNCTION route_switch.count_registry_change()""",
        """CREATE TRIGGER counted AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON route_switch.template_versions
            FOR EACH STATEMENT EXECUTE FUNCTION route_switch.count_registry_change()""",
    ),
)
"""Forward only: entry n takes a store from schema n to n + 1. Never edit one that was released; append."""

PROMPT_SCHEMA = PostgresSchema("prompt registry", "stores.prompts", MIGRATIONS)

_FINGERPRINT = b"SELECT identity::text || ':' || revision FROM route_switch.registry"
_SELECT_IDS = b"SELECT template_id FROM route_switch.templates ORDER BY template_id"
_SELECT_ALL = b"SELECT template_id, facts::text, live::text FROM route_switch.templates ORDER BY template_id"
_SELECT_ONE = b"SELECT template_id, facts::text, live::text FROM route_switch.templates WHERE template_id = %s"
_LOCK_ONE = _SELECT_ONE + b" FOR UPDATE"
_VERSION_COLUMNS = (
    b"SELECT template_id, number, content::text, "
    b"to_char(added_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"+00:00\"') FROM route_switch.template_versions "
)
_SELECT_ALL_VERSIONS = _VERSION_COLUMNS + b"ORDER BY template_id, number"
_SELECT_VERSIONS = _VERSION_COLUMNS + b"WHERE template_id = %s ORDER BY number"
_INSERT_TEMPLATE = b"INSERT INTO route_switch.templates (template_id, facts, live) VALUES (%s, %s, %s)"
_INSERT_VERSION = b"INSERT INTO route_switch.template_versions (template_id, number, content) VALUES (%s, %s, %s)"
_UPDATE_LIVE = b"UPDATE route_switch.templates SET live = %s WHERE template_id = %s"

_TemplateRow = tuple[str, str, str]
_VersionRow = tuple[str, int, str, str]
_Record = TypeVar("_Record", bound=Record)


class PostgresPrompts:
    """PromptRegistry over a database. Safe for several threads, processes and hosts."""

    def __init__(self, place: PostgresPlace, *, lock_timeout_s: float = 10.0) -> None:
        """Nothing is connected or made yet; a database without our tables is an empty registry.

        Args:
            lock_timeout_s: how long a change waits for another one of the same template.
        Raises:
            ConfigurationError: the URL is none.
        """
        self._database = PostgresDatabase(place, PROMPT_SCHEMA, busy_timeout_s=lock_timeout_s, fault=RegistryError)
        # Versions never change, so each is parsed once, unless somebody edits it.
        self._parsed: dict[tuple[str, int], tuple[str, VersionRecord]] = {}

    def fingerprint(self) -> str:
        """See PromptRegistry. One row. Raises RegistryError, SchemaTooNewError."""
        with self._database.reading() as connection:
            return _fingerprint(connection)

    def load(self, previous: RegistryState | None = None) -> RegistryState:
        """See PromptRegistry. Raises RegistryError, SchemaTooNewError: the database cannot be read."""
        with self._database.reading() as connection:
            fingerprint = _fingerprint(connection)
            rows: list[_TemplateRow] = [] if connection is None else connection.execute(_SELECT_ALL).fetchall()
            found: list[_VersionRow] = [] if connection is None else connection.execute(_SELECT_ALL_VERSIONS).fetchall()
        versions: dict[str, list[_VersionRow]] = {template_id: [] for template_id, _, _ in rows}
        for version in found:
            versions[version[0]].append(version)
        templates: dict[str, RegisteredTemplate] = {}
        problems: dict[str, str] = {}
        for row in rows:
            template_id = row[0]
            try:
                templates[template_id] = self._registered(row, versions[template_id])
            except (RegistryError, TemplateInvalidError) as error:
                problems[template_id] = str(error)
                if previous is not None and template_id in previous.templates:
                    templates[template_id] = previous.templates[template_id]
        return RegistryState(fingerprint, templates, problems)

    def get(self, template_id: str) -> RegisteredTemplate:
        """See PromptRegistry."""
        with self._database.reading() as connection:
            if connection is None:
                raise not_registered(template_id, [])
            return self._read(connection, _SELECT_ONE, template_id)

    def register(self, template: PromptTemplate, text: PromptText, *, origin: Origin) -> RegisteredTemplate:
        """See PromptRegistry. Raises TemplateInvalidError too."""
        template_id = check_template_id(template.template_id)
        check_variables(template.variables)
        check_text(text, template=template)
        version = PromptVersion(1, text, None, origin)
        change = Change(Action.REGISTER, 1, None, origin.by, origin.at, origin.note or "registered")
        registered = RegisteredTemplate(template, {1: version}, {ANY_MODEL: 1}, history=(change,))
        facts, live = _as_json(template_fields(template)), _as_json(live_fields(registered))
        content = _as_json(version_fields(version))
        with self._database.writing() as connection:
            try:
                connection.execute(_INSERT_TEMPLATE, (template_id, facts, live))
            except errors.UniqueViolation as error:
                raise TemplateExistsError(
                    f"Template {template_id!r} is registered already: add a version, or choose another id."
                ) from error
            connection.execute(_INSERT_VERSION, (template_id, 1, content))
        return registered

    def add_version(self, template_id: str, text: PromptText, *, model: str | None, origin: Origin) -> PromptVersion:
        """See PromptRegistry. Raises RegistryError, TemplateInvalidError."""
        with self._database.writing() as connection:
            registered = self._read(connection, _LOCK_ONE, template_id)
            check_text(text, template=registered.template)
            version = PromptVersion(max(registered.versions, default=0) + 1, text, model, origin)
            connection.execute(_INSERT_VERSION, (template_id, version.number, _as_json(version_fields(version))))
        return version

    def add_drafts(self, template: PromptTemplate, versions: Sequence[PromptVersion]) -> dict[int, int]:
        """See PromptRegistry. Raises RegistryError, TemplateInvalidError."""
        template_id = check_template_id(template.template_id)
        check_variables(template.variables)
        with self._database.writing() as connection:
            if connection.execute(_LOCK_ONE, (template_id,)).fetchone() is None:
                numbers, added = {version.number: version.number for version in versions}, list(versions)
                registered = RegisteredTemplate(template, {version.number: version for version in added}, {})
                facts, live = _as_json(template_fields(template)), _as_json(live_fields(registered))
                connection.execute(_INSERT_TEMPLATE, (template_id, facts, live))
            else:
                registered = self._read(connection, _SELECT_ONE, template_id)
                numbers, added = number_drafts(registered, versions)
            for version in added:
                check_text(version.text, template=registered.template)
                connection.execute(_INSERT_VERSION, (template_id, version.number, _as_json(version_fields(version))))
        return numbers

    def make_live(self, template_id: str, change: Change) -> RegisteredTemplate:
        """See PromptRegistry. Raises RegistryError when there is no such template or version."""
        with self._database.writing() as connection:
            registered = make_live(self._read(connection, _LOCK_ONE, template_id), change)
            connection.execute(_UPDATE_LIVE, (_as_json(live_fields(registered)), template_id))
        return registered

    def set_weight(self, template_id: str, change: Change) -> RegisteredTemplate:
        """See PromptRegistry."""
        with self._database.writing() as connection:
            registered = set_weight(self._read(connection, _LOCK_ONE, template_id), change)
            connection.execute(_UPDATE_LIVE, (_as_json(live_fields(registered)), template_id))
        return registered

    def _read(self, connection: psycopg.Connection, query: bytes, template_id: str) -> RegisteredTemplate:
        row: _TemplateRow | None = connection.execute(query, (template_id.replace("\0", "?"),)).fetchone()
        if row is None:
            raise not_registered(template_id, [known for (known,) in connection.execute(_SELECT_IDS)])
        try:
            return self._registered(row, connection.execute(_SELECT_VERSIONS, (template_id,)).fetchall())
        except TemplateInvalidError as error:
            raise RegistryError(str(error)) from error

    def _registered(self, row: _TemplateRow, versions: list[_VersionRow]) -> RegisteredTemplate:
        """Raises RegistryError, TemplateInvalidError naming what of the template is wrong."""
        template_id, facts, live = row
        where = f"{self._database.url}: template {template_id}"
        try:
            template = _parsed(facts, TemplateRecord, f"{where}, facts").to_template(check_template_id(template_id))
        except TemplateInvalidError as error:
            raise TemplateInvalidError(f"{where}: {error}") from error
        if not versions:
            raise RegistryError(f"{where}: there is no version: add one to `template_versions` as number 1.")
        known = {number: self._version(template, number, content, at) for _, number, content, at in versions}
        return _parsed(live, LiveRecord, f"{where}, live").to_registered(template, known, where=f"{where}, live")

    def _version(self, template: PromptTemplate, number: int, content: str, added_at: str) -> PromptVersion:
        where = f"{self._database.url}: template {template.template_id}, version {number}"
        known = self._parsed.get((template.template_id, number))
        record = known[1] if known is not None and known[0] == content else _parsed(content, VersionRecord, where)
        self._parsed[template.template_id, number] = (content, record)
        return record.to_version(number, template=template, where=where, written_at=added_at)


def _fingerprint(connection: psycopg.Connection | None) -> str:
    row = None if connection is None else connection.execute(_FINGERPRINT).fetchone()
    return "empty" if row is None else row[0]


def _parsed(text: str, record: type[_Record], where: str) -> _Record:
    try:
        return record.model_validate_json(text)
    except ValidationError as error:
        raise RegistryError(f"{where}: {explain(error)}") from error


def _as_json(fields: JsonObject) -> str:
    text = json.dumps(fields, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RegistryError("This text cannot be stored: it holds something that is no Unicode character.") from None
    return text
