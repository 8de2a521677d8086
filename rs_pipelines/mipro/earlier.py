"""What earlier searches found, made fit for a new one: warm start."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from rs_gateway.domain.prompts import PromptText
from rs_gateway.domain.redaction import Redactor
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_pipelines.mipro.formats import without_format
from rs_pipelines.mipro.records import LIVE, StudyRecord
from rs_pipelines.mipro.redacted import is_clean

MOST_EARLIER = 2
"""Winners that are tried again; each takes the place of a new instruction and of a new demo set."""


def earlier_winners(
    studies: Sequence[StudyRecord], *, sample_id: str, live_hash: str, refused: Collection[str]
) -> tuple[PromptText, ...]:
    """Choices of finished searches on other samples that are not live, the newest first; at most two.

    A search of the same sample is the same search: it is not warmed up by its own result.

    Args:
        studies: of one target, in the order of their start.
        refused: content hashes of prompts that a person took back.
    """
    found: dict[str, PromptText] = {}
    for study in reversed(studies):
        text = study.best_text
        if not study.finished or text is None or study.best == LIVE or study.sample_id == sample_id:
            continue
        if text.content_hash != live_hash and text.content_hash not in refused:
            found.setdefault(text.content_hash, without_format(text))
    return tuple(found.values())[:MOST_EARLIER]


def untried_drafts(
    registered: RegisteredTemplate, model: str, *, searched: Collection[str], refused: Collection[str]
) -> tuple[PromptText, ...]:
    """Versions for a model, or for any, that never were live here and are not now, the newest first; at most two.

    So a prompt that a person proposed, or that came with a package, gets its chance before the gate.

    Args:
        searched: ids of the studies that were made here: what they chose is an earlier winner.
        refused: content hashes of prompts that are not to be tried.
    """
    live = registered.live(model)
    tried = {change.version for change in registered.history} | set(registered.serving.values())
    taken = {*refused, *(() if live is None else (live.text.content_hash,))}
    found = {
        version.text.content_hash: without_format(version.text)
        for number, version in sorted(registered.versions.items(), reverse=True)
        if number not in tried
        and version.model in (model, None)
        and version.origin.study_id not in searched
        and version.text.content_hash not in taken
    }
    return tuple(found.values())[:MOST_EARLIER]


def usable_demos(
    text: PromptText, *, held_out: Collection[str], inputs: Collection[str], redactor: Redactor | None = None
) -> PromptText:
    """The prompt without demos that the new sample validates or proves on, or that are to be redacted by now.

    Args:
        held_out: example ids of its validation and test rows; inputs: their user texts.
    """
    kept = tuple(
        demo
        for demo in text.demos
        if demo.example_id not in held_out
        and demo.user not in inputs
        and is_clean(demo.user, redactor)
        and is_clean(demo.assistant, redactor)
    )
    return replace(text, demos=kept, nearest=text.nearest if text.nearest < len(kept) else 0)
