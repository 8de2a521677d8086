"""`route-switch keys`: make, list, change and revoke client keys. A running gateway takes them over by itself."""

import json
import re
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rs_gateway.cli_options import ConfigOption, JsonOption
from rs_gateway.current_user import current_user
from rs_gateway.data_console import data, words
from rs_gateway.domain.access import BUDGET_PERIODS, BudgetPeriod, ClientKey, KeyLimits, KeyNotFoundError
from rs_gateway.domain.traces import StoreMode
from rs_gateway.domain.wording import counted

if TYPE_CHECKING:
    from rs_gateway.domain.access_store import AccessStore, KeyRecord

keys_app = typer.Typer(no_args_is_help=True, help="Client keys: who may use the gateway, for what, and how much.")

_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_NO_LIMIT = "none"
_EVERYTHING = "*"

KeyArgument = Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template", "-t", help="A template it may use; repeat for more, * for all. Without --model: no bare models."
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="A model it may ask for without a template; repeat for more, * for all. Without --template: no templates.",
    ),
]
NoCallsOption = Annotated[bool, typer.Option("--no-calls", help="It may use no template and no model.")]
StoreOption = Annotated[
    StoreMode | None, typer.Option(help="How much is kept of its requests at most.  [default: as configured]")
]
ExpiresOption = Annotated[
    str | None,
    typer.Option("--expires-in", help="When it ends, from now: such as 45m, 12h, 30d or 2w.  [default: never]"),
]
_PERIODS = "What the budget is for: day, month (both UTC) or total."


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; for people.")],
    template: TemplateOption = None,
    model: ModelOption = None,
    no_calls: NoCallsOption = False,
    admin: Annotated[bool, typer.Option("--admin", help="It may use the admin API.")] = False,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests a minute, as a bucket that fills evenly.  [default: no limit]")
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens in and out a minute, counted when a request ends.  [default: no limit]"),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests at once; a stream is one.  [default: no limit]")
    ] = None,
    budget_usd: Annotated[
        float | None,
        typer.Option(min=0, help="US dollars that its requests may cost in --budget-period.  [default: no limit]"),
    ] = None,
    budget_period: Annotated[str | None, typer.Option(help=f"{_PERIODS}  [default: total]")] = None,
    allow_unpriced: Annotated[
        bool, typer.Option("--allow-unpriced", help="Despite a budget it may use models whose price is unknown.")
    ] = False,
    store: StoreOption = None,
    expires_in: ExpiresOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a client key and print it, this once: only its hash is stored.

    The first key switches keys on: from then on every request needs one.

    Example: `route-switch keys create shop --template support --requests-per-minute 600 --budget-usd 20`
    """
    from rs_gateway.keys import Grant, issue_key, key_facts

    if budget_period is not None and budget_usd is None:
        raise typer.BadParameter("--budget-period needs --budget-usd.")
    templates, models = _scopes(template, model, no_calls=no_calls)
    now_s = time.time()
    grant = Grant(
        name=name,
        templates=templates,
        models=models,
        admin=admin,
        limits=KeyLimits(
            requests_per_minute,
            tokens_per_minute,
            concurrency,
            budget_usd,
            _period(budget_period) if budget_period is not None else "total",
            allow_unpriced,
        ),
        store=store,
        expires_at=None if expires_in is None else now_s + _duration_s(expires_in),
    )
    with _opened(config) as access:
        first = not access.records(now_s=now_s)
        issued = issue_key(access, grant, by=current_user(), now_s=now_s)
    if as_json:
        print(json.dumps({**key_facts(issued.key, now_s=now_s), "key": issued.secret}))  # noqa: T201
        return
    print(issued.secret)  # noqa: T201
    words.print(
        f"Made the key {issued.key.key_id} for {issued.key.name!r}. It is shown this once: only its hash is kept."
    )
    if first:
        words.print("It is the first one: a gateway on this store now refuses requests without a key.")


@keys_app.command("list")
def list_keys(
    show_all: Annotated[bool, typer.Option("--all", help="Revoked and expired ones too.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys and what they have used; with --json all of them, with everything that is known.

    Example: `route-switch keys list`
    """
    from rs_gateway.keys import record_facts

    now_s = time.time()
    with _existing(config) as access:
        records = [] if access is None else access.records(now_s=now_s)
    if as_json:
        print(json.dumps([record_facts(record, now_s=now_s) for record in records]))  # noqa: T201
        return
    shown = [record for record in records if show_all or record.key.is_active(now_s)]
    table = Table()
    table.add_column("key", no_wrap=True)
    for heading in ("name", "may use", "limits", "today", "spent"):
        table.add_column(heading, overflow="fold")
    for record in shown:
        table.add_row(*_cells(record, now_s=now_s))
    if shown:
        data.print(table)
    if hidden := len(records) - len(shown):
        words.print(f"{hidden} revoked or expired: --all shows them.")
    if not records:
        words.print(
            "There are no keys: everybody who reaches the gateway may use it, and it binds loopback only. "
            "`route-switch keys create NAME` makes the first one."
        )


@keys_app.command("show")
def show_key(key_id: KeyArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one key: scopes, limits, and what it used today, this month and altogether.

    Example: `route-switch keys show 4f1c09ab7e`
    """
    from rs_gateway.keys import find_key, record_facts

    now_s = time.time()
    with _holding(config, key_id) as access:
        facts = record_facts(find_key(access.records(now_s=now_s), key_id), now_s=now_s)
    if as_json:
        print(json.dumps(facts))  # noqa: T201
    else:
        import yaml

        print(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), end="")  # noqa: T201


@keys_app.command("update")
def update_key(
    key_id: KeyArgument,
    name: Annotated[str | None, typer.Option(help="Whose key it is; for people.")] = None,
    template: TemplateOption = None,
    model: ModelOption = None,
    no_calls: NoCallsOption = False,
    admin: Annotated[bool | None, typer.Option("--admin/--no-admin", help="May it use the admin API?")] = None,
    requests_per_minute: Annotated[
        str | None, typer.Option(help="Requests a minute: a number, or none for no limit.")
    ] = None,
    tokens_per_minute: Annotated[
        str | None, typer.Option(help="Tokens in and out a minute: a number, or none.")
    ] = None,
    concurrency: Annotated[str | None, typer.Option(help="Requests at once: a number, or none.")] = None,
    budget_usd: Annotated[str | None, typer.Option(help="US dollars in --budget-period: a number, or none.")] = None,
    budget_period: Annotated[str | None, typer.Option(help=_PERIODS)] = None,
    allow_unpriced: Annotated[
        bool | None,
        typer.Option(
            "--allow-unpriced/--no-allow-unpriced", help="May it, despite a budget, use models whose price is unknown?"
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="How much is kept of its requests at most: full, metrics, none, or default, which is as configured."
        ),
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", help="When it ends, from now: such as 45m, 12h, 30d or 2w; or never.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a key may do; what is not named stays. The key itself stays the same.

    Naming --template or --model replaces both scopes, as in `create`.

    Example: `route-switch keys update 4f1c09ab7e --requests-per-minute 1200 --budget-usd none`
    """
    from rs_gateway.keys import key_facts
    from rs_gateway.keys import update_key as store_changes

    rates = {
        field: _count(field, text)
        for field, text in (
            ("requests_per_minute", requests_per_minute),
            ("tokens_per_minute", tokens_per_minute),
            ("concurrency", concurrency),
        )
        if text is not None
    }
    budget = {} if budget_usd is None else {"budget_usd": _amount(budget_usd)}
    period = {} if budget_period is None else {"budget_period": _period(budget_period)}
    unpriced = {} if allow_unpriced is None else {"allow_unpriced": allow_unpriced}
    rescoped = template is not None or model is not None or no_calls
    templates, models = _scopes(template, model, no_calls=no_calls)
    keep = None if store is None else _store_mode(store)
    now_s = time.time()
    expires_at = None if expires_in in (None, "never") else now_s + _duration_s(expires_in)

    def change(key: ClientKey) -> ClientKey:
        return replace(
            key,
            name=key.name if name is None else name.strip(),
            templates=templates if rescoped else key.templates,
            models=models if rescoped else key.models,
            admin=key.admin if admin is None else admin,
            limits=replace(key.limits, **rates, **budget, **period, **unpriced),
            store=key.store if store is None else keep,
            expires_at=key.expires_at if expires_in is None else expires_at,
        )

    with _holding(config, key_id) as access:
        facts = key_facts(store_changes(access, key_id, change), now_s=now_s)
    if as_json:
        print(json.dumps(facts))  # noqa: T201
    else:
        words.print(f"Changed the key {key_id}. A running gateway goes by it within its sync interval.")


@keys_app.command("revoke")
def revoke_key(key_id: KeyArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """End a key for good. Requests in flight are finished.

    Example: `route-switch keys revoke 4f1c09ab7e`
    """
    from rs_gateway.keys import key_facts
    from rs_gateway.keys import revoke_key as end_key

    now_s = time.time()
    with _holding(config, key_id) as access:
        revoked = end_key(access, key_id, now_s=now_s)
        left = any(record.key.is_active(now_s) for record in access.records(now_s=now_s))
    if as_json:
        print(json.dumps(key_facts(revoked, now_s=now_s)))  # noqa: T201
        return
    words.print(f"Revoked the key {key_id} ({revoked.name!r}).")
    if not left:
        words.print("No key is left: the gateway refuses every request until there is a new one.")


@contextmanager
def _opened(config: Path | None) -> "Generator[AccessStore]":
    """The store, made where there is none."""
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import open_access_store

    with closing(open_access_store(load_settings(config))) as access:
        yield access


@contextmanager
def _existing(config: Path | None) -> "Generator[AccessStore | None]":
    """The store, or None where there is none: looking makes none."""
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import access_store_exists, open_access_store

    settings = load_settings(config)
    if not access_store_exists(settings):
        yield None
        return
    with closing(open_access_store(settings)) as access:
        yield access


@contextmanager
def _holding(config: Path | None, key_id: str) -> "Generator[AccessStore]":
    """The store that should hold this key. Raises KeyNotFoundError where there is no store."""
    with _existing(config) as access:
        if access is None:
            raise KeyNotFoundError(key_id, remedy="none was ever made, and `route-switch keys create NAME` makes one")
        yield access


def _scopes(
    template: list[str] | None, model: list[str] | None, *, no_calls: bool
) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """Naming either closes the other: who gives a key one template does not mean all models besides."""
    if no_calls and (template or model):
        raise typer.BadParameter("--no-calls goes with neither --template nor --model.")
    if no_calls:
        return frozenset(), frozenset()
    if not template and not model:
        return None, None
    return _scope(template or []), _scope(model or [])


def _scope(names: list[str]) -> frozenset[str] | None:
    return None if _EVERYTHING in names else frozenset(names)


def _period(text: str) -> BudgetPeriod:
    if text not in BUDGET_PERIODS:
        raise typer.BadParameter(f"--budget-period must be {', '.join(BUDGET_PERIODS)}, not {text!r}.")
    return text


def _count(field: str, text: str) -> int | None:
    if text == _NO_LIMIT:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise typer.BadParameter(f"--{field.replace('_', '-')} must be a number or {_NO_LIMIT}, not {text!r}.")
    return int(text)


def _amount(text: str) -> float | None:
    if text == _NO_LIMIT:
        return None
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--budget-usd must be a number or {_NO_LIMIT}, not {text!r}.") from None


def _store_mode(text: str) -> StoreMode | None:
    if text == "default":
        return None
    try:
        return StoreMode(text)
    except ValueError:
        known = ", ".join([*(mode.value for mode in StoreMode), "default"])
        raise typer.BadParameter(f"--store must be one of {known}, not {text!r}.") from None


def _duration_s(text: str) -> float:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if match is None:
        raise typer.BadParameter(f"--expires-in must be such as 30d, 12h, 45m or 2w, not {text!r}.")
    return float(match[1]) * _SECONDS[match[2]]


def _cells(record: "KeyRecord", *, now_s: float) -> tuple[str, ...]:
    from rs_gateway.domain.access_store import KeyUsage

    key, limits, usage = record.key, record.key.limits, record.usage
    state = " (revoked)" if key.revoked_at is not None else "" if key.is_active(now_s) else " (expired)"
    names = ["all templates"] if key.templates is None else sorted(key.templates)
    names += ["all models"] if key.models is None else sorted(key.models)
    names += ["admin"] if key.admin else []
    counts = (
        *((limits.requests_per_minute, "requests/min"), (limits.tokens_per_minute, "tokens/min")),
        (limits.concurrency, "at once"),
    )
    bounds = [f"{count} {unit}" for count, unit in counts if count is not None]
    today, unpriced = usage.get("day", KeyUsage()), usage.get("total", KeyUsage()).unpriced_requests
    spent = f"{usage.get(limits.budget_period, KeyUsage()).cost_usd:.4f}"
    if limits.budget_usd is not None:
        spent += f" of {limits.budget_usd:g}"
    spent += " USD" if limits.budget_period == "total" else f" USD/{limits.budget_period}"
    if unpriced:
        spent += f", and {counted(unpriced, 'unpriced request')}"
    return (
        *(key.key_id, key.name + state, ", ".join(names) or "nothing", ", ".join(bounds) or "none"),
        *(f"{counted(today.requests, 'request')}, {counted(today.tokens, 'token')}", spent),
    )
