"""The text of a version as a person sees it: how two differ, and a new one out of an edited one."""

import difflib
from dataclasses import replace

from rs_gateway.adapters.prompt_yaml import dump_text
from rs_gateway.domain.errors import RegistryError, TemplateInvalidError, TemplateNotFoundError
from rs_gateway.domain.prompts import Demo, PromptText, PromptVersion
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.template_form import TextForm
from rs_gateway.yaml_text import YamlTextError, parse_yaml


def text_yaml(text: PromptText) -> str:
    """All that a version says, as YAML. Raises RegistryError: no YAML can hold it."""
    return dump_text(text).decode()


def difference(older: PromptVersion, newer: PromptVersion) -> list[str]:
    """A unified diff of what two versions say, line by line without line ends; empty where they say the same."""
    names = (f"version {older.number}", f"version {newer.number}")
    lines = (text_yaml(older.text).splitlines(), text_yaml(newer.text).splitlines())
    return list(difflib.unified_diff(*lines, *names, lineterm=""))


def version_of(registered: RegisteredTemplate, number: int) -> PromptVersion:
    """The version of that number. Raises TemplateNotFoundError."""
    try:
        return registered.versions[number]
    except KeyError:
        known = ", ".join(map(str, registered.versions))
        template_id = registered.template.template_id
        raise TemplateNotFoundError(f"Template {template_id!r} has no version {number}: name one of {known}.") from None


def live_version(registered: RegisteredTemplate, model: str) -> PromptVersion:
    """What is live for a model. Raises RegistryError where nothing is."""
    live = registered.live(model)
    if live is None:
        raise RegistryError(
            f"Nothing of template {registered.template.template_id!r} is live for {model!r}: name a version."
        )
    return live


def edited_text(content: str, base: PromptText) -> PromptText:
    """What a person made of `base`: a demo that stays as it was keeps the example that it came from.

    Args:
        content: YAML with the keys of `text_yaml`; one that is left out is empty.

    Raises:
        TemplateInvalidError: it is no YAML, or a key is wrong.
    """
    try:
        text = TextForm.read(parse_yaml(content)).to_text()
    except YamlTextError as error:
        raise TemplateInvalidError(str(error)) from None
    known = {(demo.user, demo.assistant): demo for demo in base.demos}
    return replace(text, demos=tuple(known.get((d.user, d.assistant), Demo(d.user, d.assistant)) for d in text.demos))


def dropped_variables(base: PromptText, text: PromptText) -> list[str]:
    """Variables that `base` uses and `text` does not: what clients send there would no longer reach the model."""
    return sorted(base.placeholders - text.placeholders)
