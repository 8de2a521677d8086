"""What README.md and docs/ show as YAML can be used as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rs_gateway.domain.prompts import check_text
from rs_gateway.settings import Settings, load_settings
from rs_gateway.template_file import check_template
from rs_gateway.template_form import TemplateForm

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = frozenset(Settings.model_fields) - {"config_path"}
TEMPLATE = frozenset({"instruction", "evaluator"})


def blocks() -> dict[str, str]:
    """Place -> text of every fenced YAML block."""
    found: dict[str, str] = {}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = path.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found[f"{path.relative_to(ROOT)}:{line}"] = match[1]
    return found


BLOCKS = blocks()


def places(*, with_any_of: frozenset[str]) -> list[str]:
    """Where blocks stand that have one of these keys at the top."""
    contents: dict[str, Any] = {place: yaml.safe_load(text) for place, text in BLOCKS.items()}
    return [place for place, content in contents.items() if isinstance(content, dict) and with_any_of & content.keys()]


CONFIGURATIONS = places(with_any_of=SECTIONS)


@pytest.mark.parametrize("place", CONFIGURATIONS)
def test_a_documented_configuration_is_accepted(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in re.findall(r"\$\{(\w+)\}", BLOCKS[place]):
        monkeypatch.setenv(variable, "a-value")
    path = tmp_path / "route-switch.yaml"
    path.write_text(BLOCKS[place], encoding="utf-8")

    load_settings(path)


@pytest.mark.parametrize("place", places(with_any_of=TEMPLATE))
def test_a_documented_template_can_be_registered(place: str) -> None:
    template, text = TemplateForm.read(
        {"id": "part-of-one", "instruction": "", **yaml.safe_load(BLOCKS[place])}
    ).to_template()

    check_text(text, template=template)
    check_template(template)


def test_every_document_that_configures_something_is_looked_at() -> None:
    documents = {place.split(":")[0] for place in CONFIGURATIONS}

    guides = {f"docs/guides/{name}.md" for name in ("observability", "own-template", "privacy", "providers", "routing")}
    assert {"README.md", "docs/reference/configuration.md", *guides} <= documents
