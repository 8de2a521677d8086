"""A template as a file that a person wrote, read and checked before anything is registered."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from rs_gateway.domain.errors import TemplateInvalidError
from rs_gateway.domain.prompts import PromptTemplate, PromptText
from rs_gateway.yaml_text import YamlTextError, parse_yaml

if TYPE_CHECKING:
    from rs_gateway.settings import Settings


def read_template(file: Path) -> tuple[PromptTemplate, PromptText]:
    """A template file, checked. Raises TemplateInvalidError naming the file and what is wrong."""
    from rs_gateway.template_form import TemplateForm

    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (YamlTextError, UnicodeDecodeError) as error:
        raise TemplateInvalidError(f"{file} is not valid YAML: {error}") from None
    try:
        return TemplateForm.read(content).to_template()
    except TemplateInvalidError as error:
        raise TemplateInvalidError(f"{file}: {error}") from None


def read_prompt(
    file: Path, *, template_id: str, name: str, variables: Sequence[str] | None
) -> tuple[PromptTemplate, PromptText]:
    """A text file with an instruction alone, as a template. Raises TemplateInvalidError naming what is wrong.

    Args:
        variables: None for those that the text uses.
    """
    from rs_gateway.template_form import TemplateForm

    try:
        instruction = file.read_text(encoding="utf-8-sig").strip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateInvalidError(f"{file} cannot be read as UTF-8 text: {error}") from None
    if not instruction.strip():
        raise TemplateInvalidError(f"{file} is empty: write the instruction into it, as plain text.")
    try:
        form = {"id": template_id, "name": name, "instruction": instruction, "variables": variables}
        return TemplateForm.read(form).to_template()
    except TemplateInvalidError as error:
        raise TemplateInvalidError(f"{file}: {error}") from None


def check_template(template: PromptTemplate, settings: "Settings | None" = None) -> None:
    """Let what is installed object: the pipelines refuse an evaluator that they or these settings do not have."""
    for point in entry_points(group="route_switch.template_checks"):
        try:
            check = point.load()
        except ImportError:
            continue  # the base install has no pipelines; theirs will object when they optimise
        check(template, settings)
