"""Changing by hand which version is live: the same from the command line and over the admin API."""

from collections.abc import Collection
from dataclasses import dataclass

from rs_gateway.domain.errors import InvalidRequestError, shown
from rs_gateway.domain.ports import PromptRegistry
from rs_gateway.domain.prompts import ANY_MODEL
from rs_gateway.domain.publication import Action, Change, served_before
from rs_gateway.domain.registered_template import RegisteredTemplate, listed_versions


@dataclass(frozen=True, slots=True)
class ByHand:
    """Who changes it and why, as it is kept.

    Attributes:
        model: the model that it is for; None for every model without a version of its own.
        at: UTC, ISO 8601.
    """

    by: str
    at: str
    reason: str
    model: str | None = None


def publish_by_hand(
    registry: PromptRegistry,
    template_id: str,
    version: int,
    by_hand: ByHand,
    *,
    runs_on: Collection[str],
    previous: int | None = None,
) -> RegisteredTemplate:
    """Make a version live without the gate's proof, on record as such: its change names no comparison. Blocks.

    Args:
        runs_on: the models that enabled combinations run the template on.
        previous: refuse unless this version is live now; None goes by what is found.

    Raises:
        InvalidRequestError: the template does not run on the model.
        RegistryError and its kinds: it is live already, another one is live by now, or there is no such version.
    """
    registered = registry.get(template_id)
    _check_runs(registered, by_hand.model, runs_on)
    expected = previous if previous is not None else _live(registered, by_hand.model)
    return registry.make_live(template_id, _change(Action.PUBLISH, version, by_hand, expected))


def roll_back(
    registry: PromptRegistry, template_id: str, by_hand: ByHand, *, runs_on: Collection[str]
) -> RegisteredTemplate:
    """Serve again what served before. Blocks.

    Raises:
        InvalidRequestError: there is nothing to go back to, or the template does not run on the model.
        RegistryError: there is no such template, or it cannot be changed.
    """
    registered = registry.get(template_id)
    _check_runs(registered, by_hand.model, runs_on)
    before = served_before(registered.history, model=by_hand.model)
    if before is None:
        raise _nothing_before(registered, by_hand.model)
    live = _live(registered, by_hand.model)
    return registry.make_live(template_id, _change(Action.ROLLBACK, before, by_hand, live))


def _change(action: Action, version: int, by_hand: ByHand, previous: int | None) -> Change:
    return Change(action, version, by_hand.model, by_hand.by, by_hand.at, by_hand.reason, previous)


def _live(registered: RegisteredTemplate, model: str | None) -> int | None:
    live = registered.live(model if model is not None else ANY_MODEL)
    return live.number if live is not None else None


def _check_runs(registered: RegisteredTemplate, model: str | None, runs_on: Collection[str]) -> None:
    if model is not None and model not in {*runs_on, *registered.own_versions}:
        known = ", ".join(sorted(runs_on))[:300] or "none: no combination has it"
        raise InvalidRequestError(
            f"Template {registered.template.template_id!r} does not run on {shown(model)}; it runs on {known}.",
            param="model",
        )


def _nothing_before(registered: RegisteredTemplate, model: str | None) -> InvalidRequestError:
    """Why a rollback is refused; where models have versions of their own to take back, which ones."""
    whom = shown(model) if model is not None else "every model"
    own = {m: n for m, n in registered.own_versions.items() if served_before(registered.history, model=m) is not None}
    advice = "Make the one that you mean live by its number."
    if model is None and len(own) == 1:
        ((only, number),) = own.items()
        how = f"take it back with `--model {only[:100]}`, or over HTTP `model`."
        advice = f"{only[:100]} has a version of its own ({number}): {how}"
    elif model is None and own:
        known = listed_versions(own)
        advice = f"Models with a version of their own: {known}. Name one with `--model MODEL`, or over HTTP `model`."
    return InvalidRequestError(
        f"Template {registered.template.template_id!r} has no earlier version to go back to for {whom}. {advice}",
        param="model",
    )
