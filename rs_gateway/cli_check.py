"""`route-switch check`: what would keep the gateway from serving, without starting it."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from rs_gateway.cli_options import ConfigOption, JsonOption
from rs_gateway.data_console import print_json, words
from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.wording import counted

if TYPE_CHECKING:
    from rs_gateway.domain.ports import RegistryState
    from rs_gateway.provider_probe import Probe
    from rs_gateway.settings import Settings


def check_everything(
    live: Annotated[bool, typer.Option("--live", help="Ask every model one short question, too.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check configuration and stores without starting anything; exit 1 if something is wrong.

    With --live each model of a combination, or the first one that a provider lists, is asked for one word: that costs
    a few tokens.

    Example: `route-switch check --live`
    """
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import build_providers, open_registry, redaction_of

    settings = load_settings(config)
    build_providers(settings)
    redaction_of(settings)
    state = open_registry(settings).load()
    problems = [
        *_template_problems(settings, state),
        *_access_problems(settings),
        *_key_problems(settings),
        *_trace_store_problems(settings),
        *_telemetry_problems(settings),
    ]
    probes = _ask_all(settings) if live else []
    problems += [f"{probe.provider}, model {probe.model!r}: {probe.error}" for probe in probes if probe.error]
    if as_json:
        facts = {"ok": not problems, "templates": sorted(state.templates), "problems": problems}
        print_json({**facts, "live": [asdict(probe) for probe in probes]} if live else facts)
    else:
        for probe in probes:
            if probe.error is None:
                words.print(f"{probe.provider}, model {probe.model!r}: answered after {probe.latency_s:.2f} s")
        for problem in problems:
            words.print(f"- {problem}")
        words.print("Everything is in order." if not problems else f"{counted(len(problems), 'problem')}.")
    if problems:
        raise typer.Exit(1)


def _ask_all(settings: "Settings") -> "list[Probe]":
    import anyio

    from rs_gateway.progress_bar import progress_bar
    from rs_gateway.provider_probe import probe_all, questions_of
    from rs_gateway.wiring import build_providers

    with progress_bar("models") as show:
        return anyio.run(
            lambda: probe_all(questions_of(settings), lambda: build_providers(settings), settings, on_answer=show)
        )


def _template_problems(settings: "Settings", state: "RegistryState") -> Iterator[str]:
    """What is wrong with templates, their evaluators, and the combinations that run them."""
    from rs_gateway.domain.prompts import PromptTemplate
    from rs_gateway.domain.wording import did_you_mean
    from rs_gateway.template_file import check_template

    known = state.templates.keys() | state.problems.keys()
    yield from (f"{template_id}: {problem}" for template_id, problem in state.problems.items())
    for c in settings.gateway.combinations:
        if c.template_id not in known:
            meant = did_you_mean(c.template_id, known)
            yield f"combination {c.id!r}: template {c.template_id!r} is not registered.{meant}"
        registered = state.templates.get(c.template_id)
        if c.enabled and registered is not None and registered.live(c.model) is None:
            yield (
                f"combination {c.id!r}: no version of template {c.template_id!r} is live for {c.model!r}: "
                f"`route-switch template publish {c.template_id} VERSION --reason WHY` makes one live."
            )
    served = {c.template_id for c in settings.gateway.combinations if c.enabled}
    for template_id in sorted(state.templates.keys() - served):
        yield f"template {template_id!r} is registered, but no enabled combination names it."
    default = PromptTemplate("default", "", (), {"name": settings.default_evaluator})
    evaluated = {f"template {t!r}": registered.template for t, registered in sorted(state.templates.items())}
    for whose, template in {"evaluation.default_strategy": default, **evaluated}.items():
        try:
            check_template(template, settings)
        except RouteSwitchError as error:
            yield f"{whose}: {error}"


def _access_problems(settings: "Settings") -> list[str]:
    """What keeps the gateway from its address: a public one needs a client key. Makes no store."""
    from rs_gateway.access import public_address_allowed
    from rs_gateway.settings import is_loopback
    from rs_gateway.wiring import access_store_exists, open_access_store

    keyed = False
    try:
        if access_store_exists(settings):
            with closing(open_access_store(settings)) as store:
                keyed = public_address_allowed(store, now_s=time.time())
    except RouteSwitchError as error:
        return [str(error)]
    if keyed or is_loopback(settings.gateway.host_and_port[0]):
        return []
    return [
        f"gateway.addr {settings.gateway.addr!r} is reachable from other machines, and no client key is active: "
        "make one with `route-switch keys create NAME`, or bind 127.0.0.1."
    ]


def _key_problems(settings: "Settings") -> list[str]:
    """Which providers will refuse every call."""
    from rs_gateway.settings import key_variables, keyless_providers

    return [
        f"provider {name!r} has no API key in the environment: set {' or '.join(reversed(key_variables(name)))}."
        for name in keyless_providers(settings, os.environ)
    ]


def _trace_store_problems(settings: "Settings") -> list[str]:
    """What keeps the trace store from being read. A store that is not there yet is in order, and is not made."""
    from rs_gateway.wiring import open_trace_reader

    try:
        with closing(open_trace_reader(settings)) as reader:
            reader.traces(after=0, limit=1)
            reader.feedback(after=0, limit=1)
    except RouteSwitchError as error:
        return [str(error)]
    return []


def _telemetry_problems(settings: "Settings") -> list[str]:
    """What keeps spans from being sent. Sends nothing."""
    from rs_gateway.wiring import open_observers

    try:
        for observer in open_observers(settings):
            observer.close()
    except RouteSwitchError as error:
        return [str(error)]
    return []
