"""From a verified comparison to a live version. Nothing but this, or a person with a reason, makes a version live."""

from dataclasses import dataclass
from datetime import datetime

from rs_gateway.domain.errors import VersionConflictError
from rs_gateway.domain.ports import PromptRegistry
from rs_gateway.domain.prompts import Origin, PromptText
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_pipelines.comparison import Comparison
from rs_pipelines.gate import judge

_BY = "gate"


@dataclass(frozen=True, slots=True)
class Published:
    """The version that the comparison made live; `already` when an earlier call did it."""

    version: int
    already: bool


@dataclass(frozen=True, slots=True)
class NothingPublished:
    """Why the live version stays."""

    reasons: tuple[str, ...]


def publish(
    comparison: Comparison, text: PromptText, registry: PromptRegistry, *, now: datetime
) -> Published | NothingPublished:
    """Make `text` live if the comparison, verified again here, proves that it is better than what is live now.

    Publishing the same comparison again changes nothing: its version is live already, or was rolled back since.

    Args:
        now: UTC.

    Raises:
        RegistryError: the registry does not know the template or cannot be written.
    """
    registered = registry.get(comparison.target.template_id)
    live = registered.live(comparison.target.model)
    done = _published_by(comparison, registered)
    if done is not None and live is not None and live.number == done:
        return Published(done, already=True)
    reasons = objections(comparison, text, registered)
    if reasons or live is None:
        return NothingPublished(reasons)
    at = now.isoformat(timespec="seconds")
    # A version without a change is what a crash between the two steps leaves.
    version = _added_for(comparison, text, registered)
    if version is None:
        origin = Origin("study", _BY, at, study_id=comparison.study_id, comparison_id=comparison.comparison_id)
        added = registry.add_version(comparison.target.template_id, text, model=comparison.target.model, origin=origin)
        version = added.number
    change = Change(
        action=Action.PUBLISH,
        version=version,
        model=comparison.target.model,
        by=_BY,
        at=at,
        reason=" ".join(comparison.verdict.reasons),
        previous=live.number,
        comparison_id=comparison.comparison_id,
    )
    try:
        registry.make_live(comparison.target.template_id, change)
    except VersionConflictError as error:
        return NothingPublished((f"Another version went live in the meantime: compare again. ({error})",))
    return Published(version, already=False)


def objections(comparison: Comparison, text: PromptText, registered: RegisteredTemplate) -> tuple[str, ...]:
    """All that stands against publishing, computed from what is stored and what is live, never from a flag."""
    rolled_back = _rolled_back(comparison, registered)
    if rolled_back is not None:
        return (
            f"Already published as version {rolled_back}, and rolled back since: a person's rollback is not undone by "
            "the same proof. New labels make a new study, and so does another seed or setting of the search.",
        )
    taken_back = _taken_back(text, comparison.target.model, registered)
    if taken_back is not None:
        return (
            f"Version {taken_back.previous} has this very text, and {taken_back.by} rolled it back on {taken_back.at} "
            f"({taken_back.reason}): a person's rollback is not undone by a search. New labels may lead to another "
            "prompt; whoever wants this one makes it live by hand.",
        )
    live = registered.live(comparison.target.model)
    if live is None:
        return ("Nothing is live for this model, so nothing was compared with it.",)
    found: list[str] = []
    if comparison.comparison_id != comparison.content_digest:
        found.append("The stored comparison was changed after it was made: compare again.")
    if comparison.candidate_hash != text.content_hash:
        found.append("This prompt is not the one that was compared: compare again.")
    if comparison.live_hash != live.text.content_hash or comparison.live_version != live.number:
        found.append(
            f"Version {comparison.live_version} was compared, but version {live.number} is live now: compare again."
        )
    if not found:
        verdict = judge(comparison.rows, live=live.text, candidate=text, policy=comparison.policy, seed=comparison.seed)
        found += () if verdict.publish else verdict.reasons
    return tuple(found)


def taken_back_hashes(registered: RegisteredTemplate, model: str) -> frozenset[str]:
    """Content hashes of the versions that a person rolled back, and that nobody made live again since."""
    return frozenset(
        version.text.content_hash
        for version in registered.versions.values()
        if _taken_back(version.text, model, registered) is not None
    )


def _rolled_back(comparison: Comparison, registered: RegisteredTemplate) -> int | None:
    """The version that the comparison made live, if an older one serves again."""
    done, live = _published_by(comparison, registered), registered.live(comparison.target.model)
    return done if done is not None and live is not None and live.number < done else None


def _taken_back(text: PromptText, model: str, registered: RegisteredTemplate) -> Change | None:
    """The rollback of a version with this text, unless one with it was made live again since."""
    found: Change | None = None
    for change in registered.history:
        if change.model not in (model, None) or change.version is None:
            continue
        before = registered.versions.get(change.previous) if change.previous is not None else None
        if (
            made := registered.versions.get(change.version)
        ) is not None and made.text.content_hash == text.content_hash:
            found = None
        elif change.action is Action.ROLLBACK and before is not None:
            found = change if before.text.content_hash == text.content_hash else found
    return found


def _published_by(comparison: Comparison, registered: RegisteredTemplate) -> int | None:
    for change in registered.history:
        if change.action is Action.PUBLISH and change.comparison_id == comparison.comparison_id:
            return change.version
    return None


def _added_for(comparison: Comparison, text: PromptText, registered: RegisteredTemplate) -> int | None:
    for version in registered.versions.values():
        same_proof = version.origin.comparison_id == comparison.comparison_id
        if same_proof and version.text.content_hash == text.content_hash:
            return version.number
    return None
