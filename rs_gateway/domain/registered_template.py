"""A template with all of its versions, what is live of them, and how that changes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rs_gateway.domain.errors import AlreadyLiveError, RegistryError, TemplateNotFoundError, VersionConflictError, shown
from rs_gateway.domain.prompts import ANY_MODEL, PromptTemplate, PromptVersion
from rs_gateway.domain.publication import Change

_SHOWN_MODELS = 10


@dataclass(frozen=True, slots=True)
class RegisteredTemplate:
    """A template with all of its versions and what is live."""

    template: PromptTemplate
    versions: Mapping[int, PromptVersion]
    serving: Mapping[str, int]
    """model name (or ANY_MODEL) -> live version number."""
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """combination id -> weight set at run time; overrides the configuration's."""
    history: tuple[Change, ...] = ()

    def live(self, model: str) -> PromptVersion | None:
        """The version that `model` serves now, or None when nothing is live for it."""
        number = self.serving.get(model, self.serving.get(ANY_MODEL))
        return None if number is None else self.versions[number]

    @property
    def own_versions(self) -> dict[str, int]:
        """model -> live version number, for the models that ANY_MODEL's version does not reach."""
        return {model: number for model, number in sorted(self.serving.items()) if model != ANY_MODEL}


def make_live(registered: RegisteredTemplate, change: Change) -> RegisteredTemplate:
    """`registered` after `change`: compare what is live with `change.previous`, then set and record it.

    Raises:
        VersionConflictError: another version is live by now. AlreadyLiveError: nothing would change.
        RegistryError: there is no such version.
    """
    template_id, model = registered.template.template_id, change.model if change.model is not None else ANY_MODEL
    if change.version is None or change.version not in registered.versions:
        raise TemplateNotFoundError(
            f"Template {template_id!r} has no version {change.version}: "
            f"name one of {', '.join(map(str, registered.versions))}."
        )
    live = registered.live(model)
    number = None if live is None else live.number
    if number != change.previous:
        raise VersionConflictError(
            f"Version {'none' if number is None else number} of template {template_id!r} is live for "
            f"{'every model' if model == ANY_MODEL else shown(model)} by now, not {change.previous}: "
            "look at it, and decide again."
        )
    if registered.serving.get(model) == change.version:
        whom = "every model without a version of its own" if model == ANY_MODEL else shown(model)
        own = listed_versions({m: n for m, n in registered.own_versions.items() if m != model})
        others = f" Models with a version of their own: {own}; name one as `model` to change it." if own else ""
        raise AlreadyLiveError(
            f"Version {change.version} of template {template_id!r} is live for {whom} already: nothing changes.{others}"
        )
    return replace(
        registered,
        serving={**registered.serving, model: change.version},
        history=(*registered.history, change),
    )


def number_drafts(
    registered: RegisteredTemplate, versions: Sequence[PromptVersion]
) -> tuple[dict[int, int], list[PromptVersion]]:
    """Which number each of these versions from elsewhere has in `registered`, and those that it lacks, so numbered.

    A version is there already when one has its text and its model.
    """
    known = {(v.text.content_hash, v.model): number for number, v in sorted(registered.versions.items(), reverse=True)}
    following = itertools.count(max(registered.versions, default=0) + 1)
    numbers: dict[int, int] = {}
    added: list[PromptVersion] = []
    for version in versions:
        same = (version.text.content_hash, version.model)
        if same not in known:
            known[same] = next(following)
            added.append(replace(version, number=known[same]))
        numbers[version.number] = known[same]
    return numbers, added


def listed_versions(own: Mapping[str, int]) -> str:
    """Models and the versions that they have for themselves, for a message."""
    more = len(own) - _SHOWN_MODELS
    some = ", ".join(f"{model[:100]} ({number})" for model, number in list(own.items())[:_SHOWN_MODELS])
    return some + (f" and {more} more" if more > 0 else "")


def set_weight(registered: RegisteredTemplate, change: Change) -> RegisteredTemplate:
    """`registered` with `change.weight` for `change.combination_id`, recorded.

    Raises RegistryError: it names no combination, or the weight is no number from 0 up.
    """
    combination_id, weight = change.combination_id, change.weight
    if combination_id is None:
        raise RegistryError("A change of weight names a combination.")
    if weight is not None and not 0 <= weight < math.inf:
        raise RegistryError(f"A weight is a number from 0 up, not {weight!r}.")
    weights = {c: w for c, w in registered.weights.items() if c != combination_id}
    if weight is not None:
        weights[combination_id] = float(weight)
    return replace(registered, weights=weights, history=(*registered.history, change))
