"""`optimize --prompt-file`: a plain text becomes a template, or a draft that the search tries."""

from collections.abc import Generator
from pathlib import Path

import pytest

from rs_pipelines.workbench import Workbench
from tests.commands import failure, from_json, invoke
from tests.pipelines.tiny_upstream import configuration, import_parcels, tiny, workbench
from tests.running import write_configuration
from tests.upstream import Upstream

PROMPT = "Answer with the parcel number only."


@pytest.fixture
def upstream() -> Generator[Upstream]:
    with Upstream([tiny]).running() as upstream:
        yield upstream


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "prompt.txt").write_text(f"{PROMPT}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*options: str) -> str:
    """It has no labels: the prompt is taken in, and the search does not begin."""
    return failure("optimize", "parcels", *options)


def test_the_originals_command_line_optimises_the_prompt_in_a_file(folder: Path, upstream: Upstream) -> None:
    bench = workbench(folder, upstream)
    import_parcels(folder, bench)
    found = from_json(
        *("--optimize-prompt", "--template-id", "parcels", "--prompt-file", "prompt.txt", "--variables", "message")
    )
    registered = bench.registry.get("parcels")
    draft = registered.versions[2]
    assert (draft.text.instruction, draft.text.user, draft.model) == (PROMPT, "{message}", "tiny")
    assert draft.origin.note == "from prompt.txt"
    assert found["published"], found["reasons"]
    assert registered.history[-1].comparison_id == found["comparison_id"]
    [study] = bench.studies.studies(bench.target("parcels"))
    assert PROMPT in {instruction.text for instruction in study.instructions}


def test_a_template_that_nobody_knows_is_registered_with_it(folder: Path, upstream: Upstream) -> None:
    (folder / "prompt.txt").write_text("Find the number in {message}.\n")
    bench = Workbench.at(write_configuration(folder, configuration(upstream)))
    message = refused("--prompt-file", "prompt.txt")
    assert "Registered 'parcels' from prompt.txt, version 1 live." in message
    assert "has 0 labelled examples" in message
    registered = bench.registry.get("parcels")
    assert registered.template.variables == ("message",)
    assert registered.serving == {"*": 1}


def test_the_same_prompt_is_added_once_and_one_with_the_variables_needs_no_user_text(
    folder: Path, upstream: Upstream
) -> None:
    bench = workbench(folder, upstream)
    assert "as version 2, a draft" in refused("--prompt-file", "prompt.txt")
    assert "Version 2 says the same as prompt.txt already." in refused("--prompt-file", "prompt.txt")
    (folder / "prompt.txt").write_text("Find the number in {message}.")
    refused("--prompt-file", "prompt.txt")
    registered = bench.registry.get("parcels")
    assert (registered.versions[3].text.user, registered.serving) == (None, {"*": 1})


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("Find {topic}.", (), "topic"),
        (PROMPT, ("--variables", "message,topic"), "is registered with the variables message"),
        (PROMPT, ("--model", "huge"), "does not run on 'huge'"),
    ],
)
def test_a_prompt_that_does_not_fit_its_template_is_refused_and_nothing_is_added(
    folder: Path, upstream: Upstream, prompt: str, options: tuple[str, ...], words: str
) -> None:
    bench = workbench(folder, upstream)
    (folder / "prompt.txt").write_text(prompt)
    assert words in refused("--prompt-file", "prompt.txt", *options)
    assert list(bench.registry.get("parcels").versions) == [1]


def test_wrong_usage_is_said(folder: Path, upstream: Upstream) -> None:
    workbench(folder, upstream)
    assert invoke("optimize", "parcels", "--variables", "message").exit_code == 2
    assert invoke("optimize", "parcels", "--prompt-file", "nowhere.txt").exit_code == 2
