"""Command lines of the original system: read as ours, and ours are left alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.cli_original import Shape, as_ours
from tests.commands import failure, from_json, invoke, ok

CONFIGURABLE = frozenset({"--config", "-c"})
SHAPE = Shape(
    {
        "serve": Shape(options=CONFIGURABLE),
        "optimize": Shape(options=CONFIGURABLE, leads_with_template=True),
        "find-best-model": Shape(options=CONFIGURABLE, leads_with_template=True),
        "template": Shape(
            {
                "show": Shape(options=CONFIGURABLE, leads_with_template=True),
                "register": Shape(options=CONFIGURABLE | {"--template-id"}),
            }
        ),
    }
)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("--gateway --config x.yaml", "serve --config x.yaml"),
        ("--config x.yaml --gateway", "serve --config x.yaml"),
        ("--optimize-prompt --template-id a --trials 3", "optimize a --trials 3"),
        ("--template-id a --optimize-prompt", "optimize a"),
        ("--find-best-model --template-id=a --output-dir d", "find-best-model a --output-dir d"),
        ("template show --template-id a --json", "template show a --json"),
        ("-c x.yaml template show a", "template show a -c x.yaml"),
        ("--config=x.yaml serve", "serve --config=x.yaml"),
        ("template --config x.yaml show a", "template show a --config x.yaml"),
        ("template -c x.yaml show --template-id a", "template show a -c x.yaml"),
        ("template --config=x.yaml --help", "template --help --config=x.yaml"),
        ("serve --config x.yaml", "serve --config x.yaml"),
        ("template register --template-id a --prompt-file p", "template register --template-id a --prompt-file p"),
        ("template show -- --template-id a", "template show -- --template-id a"),
        ("template show --template-id", "template show --template-id"),
        ("--config x.yaml", "--config x.yaml"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_the_originals_command_lines_are_read_as_ours(written: str, meant: str) -> None:
    assert as_ours(written.split(), SHAPE) == meant.split()


@given(st.lists(st.sampled_from(["template", "show", "serve", "a", "--json", "--", "--gate", "-c"])))
def test_what_names_nothing_of_the_original_stays_as_it_is(words: list[str]) -> None:
    if "-c" not in words:
        assert as_ours(words, SHAPE) == words


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "other.yaml").write_text("data_dir: data\n")
    (tmp_path / "prompt.txt").write_text("Help {customer_name} with {topic}.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_template_is_registered_from_a_prompt_file_and_found_by_its_id(folder: Path) -> None:
    registered = from_json(
        *("--config", "other.yaml", "template", "register", "--template-id", "support"),
        *("--prompt-file", "prompt.txt", "--variables", "customer_name, topic", "--name", "Support"),
    )
    assert registered == {"template_id": "support", "version": 1}
    template = PromptFiles(folder / "data/prompts").get("support")
    assert template.template.variables == ("customer_name", "topic")
    assert template.versions[1].text.instruction == "Help {customer_name} with {topic}."
    shown = from_json("template", "show", "--template-id", "support", "--config", "other.yaml")
    assert shown["template"]["name"] == "Support"


def test_a_prompt_that_uses_what_is_not_declared_is_refused(folder: Path) -> None:
    options = ("template", "register", "--prompt-file", "prompt.txt", "--config", "other.yaml")
    assert "topic" in failure(*options, "--template-id", "support", "--variables", "customer_name")
    assert invoke(*options).exit_code == 2
    assert invoke("template", "register", "--config", "other.yaml").exit_code == 2
    ok(*options, "--template-id", "support")


def test_a_configuration_may_be_named_before_between_and_behind_the_words_of_a_command(folder: Path) -> None:
    named = ("--config", "other.yaml")
    lines = [(*named, "template", "list"), ("template", *named, "list"), ("template", "list", *named)]
    assert [from_json(*line) for line in lines] == [[], [], []]


def test_the_flags_of_the_root_start_the_command(folder: Path) -> None:
    assert "There is no configuration at none.yaml" in failure("--gateway", "--config", "none.yaml")
    assert "There is no configuration at none.yaml" in failure(
        "--optimize-prompt", "--template-id", "support", "--config", "none.yaml"
    )
    assert "There is no configuration at none.yaml" in failure(
        "--find-best-model", "--template-id", "support", "--output-dir", "d", "--config", "none.yaml"
    )
