"""A prompt in a text file as a version to be optimised: a new template's first one, or a draft of a known one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rs_gateway.current_user import current_user
from rs_gateway.domain.errors import ConfigurationError, InvalidRequestError, TemplateNotFoundError
from rs_gateway.domain.prompts import Origin, PromptText, check_text
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.template_file import check_template, read_prompt
from rs_gateway.version_texts import dropped_variables, live_version
from rs_pipelines.sample import Target
from rs_pipelines.workbench import Workbench


@dataclass(frozen=True, slots=True)
class PromptDraft:
    """What became of a prompt file.

    Attributes:
        version: its number. registered: whether the template was made with it, and it is live.
        added: whether it is new; without it, a version says the same already.
    """

    version: int
    registered: bool
    added: bool


def take_prompt(bench: Workbench, target: Target, file: Path, *, variables: Sequence[str] | None) -> PromptDraft:
    """Register the prompt in `file` with its template, or add it as a draft, which the next search tries.

    The file holds the instruction. Of a known template the live version's user text stays, unless the instruction has
    its variables itself.

    Args:
        variables: None for those that the text uses, or that the template has.

    Raises:
        TemplateInvalidError: the file cannot be read, or its text is malformed or uses an unknown variable.
        ConfigurationError: `variables` are not those of the template that is known, or its evaluator is none.
        InvalidRequestError: the text leaves out a variable that the live version uses.
        RegistryError: the registry cannot be written, or nothing is live for the target's model.
    """
    origin = Origin("registered", current_user(), _now(), note=f"from {file.name}")
    try:
        registered = bench.registry.get(target.template_id)
    except TemplateNotFoundError:
        template, text = read_prompt(file, template_id=target.template_id, name="", variables=variables)
        check_template(template, bench.settings)
        bench.registry.register(template, text, origin=origin)
        return PromptDraft(1, registered=True, added=True)
    known = registered.template.variables
    if variables is not None and {*variables} != {*known}:
        raise ConfigurationError(
            f"Template {target.template_id!r} is registered with the variables {', '.join(known) or 'none'}, and "
            f"--variables names {', '.join(variables) or 'none'}: leave it out, or name another template."
        )
    _, given = read_prompt(file, template_id=target.template_id, name="", variables=known)
    text = _as_draft(given.instruction, registered, target)
    for number, version in registered.versions.items():
        if version.text.content_hash == text.content_hash and version.model in (None, target.model):
            return PromptDraft(number, registered=False, added=False)
    added = bench.registry.add_version(target.template_id, text, model=target.model, origin=origin)
    return PromptDraft(added.number, registered=False, added=True)


def _as_draft(instruction: str, registered: RegisteredTemplate, target: Target) -> PromptText:
    live = live_version(registered, target.model).text
    own = PromptText(instruction)
    with_user = PromptText(instruction, live.user)
    text = own if own.placeholders & PromptText("", live.user).placeholders else with_user
    dropped = dropped_variables(live, text)
    if dropped:
        raise InvalidRequestError(
            f"The live version uses {', '.join(dropped)}, and this prompt does not: what clients send there would not "
            f"reach the model. Put {{{dropped[0]}}} where it belongs."
        )
    return check_text(text, template=registered.template)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
