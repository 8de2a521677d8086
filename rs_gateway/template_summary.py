"""What is live of a template, since when and why, in a few lines."""

from collections.abc import Iterator

from rs_gateway.domain.prompts import ANY_MODEL, PromptVersion
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.domain.wording import counted

_DONE = {Action.REGISTER: "registered", Action.PUBLISH: "made live", Action.ROLLBACK: "rolled back to"}


def summary_of(registered: RegisteredTemplate) -> Iterator[str]:
    """Lines for a person. Texts are as people wrote them: whoever prints them makes them printable.

    Every model with a version of its own comes with that, then all others with theirs.
    """
    template = registered.template
    yield f"{template.template_id}: {template.name}" if template.name else template.template_id
    for model, number in [*registered.own_versions.items(), *_of_others(registered)]:
        whose = model if model != ANY_MODEL else "all other models" if registered.own_versions else "all models"
        version = registered.versions[number]
        yield f"live for {whose}: version {number} of {len(registered.versions)}, {_demo_words(version)}"
        change = _made_live_by(registered, model, number)
        if change is not None:
            yield f"    {_DONE.get(change.action, change.action.value)} {change.at} by {change.by}: {change.reason}"
        origin = version.origin
        if origin.study_id is not None:
            yield f"    found by study {origin.study_id}, proven by comparison {origin.comparison_id}"
        elif change is None or change.action is not Action.REGISTER:
            yield f"    written by {origin.by}, {origin.at}"
    if not registered.serving:
        yield f"nothing is live; {counted(len(registered.versions), 'version')}"
    for combination_id, weight in sorted(registered.weights.items()):
        yield f"weight of {combination_id}: {weight:g}, set while the gateway ran"


def _of_others(registered: RegisteredTemplate) -> list[tuple[str, int]]:
    number = registered.serving.get(ANY_MODEL)
    return [] if number is None else [(ANY_MODEL, number)]


def _made_live_by(registered: RegisteredTemplate, model: str, number: int) -> Change | None:
    wanted = None if model == ANY_MODEL else model
    made = (change for change in reversed(registered.history) if change.model == wanted and change.version == number)
    return next(made, None)


def _demo_words(version: PromptVersion) -> str:
    text = version.text
    if not text.demos:
        return "no demos"
    shown = f" ({text.nearest} shown, those most like the request)" if text.nearest else ""
    return f"{counted(len(text.demos), 'demo')}{shown}"
