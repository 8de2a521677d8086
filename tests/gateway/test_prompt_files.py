"""What the registry's files look like, and what happens when people edit them, writers race and processes die."""

import contextlib
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.errors import RegistryError
from rs_gateway.domain.ports import RegistryState
from rs_gateway.domain.prompts import Demo, Origin, PromptTemplate, PromptText
from rs_gateway.domain.publication import Action, Change

ROOT = Path(__file__).parents[2]
ORIGIN = Origin(kind="registered", by="ann", at="2026-03-01T12:00:00+00:00")
TEMPLATE = PromptTemplate("intent", "Intent", ("message",), {"name": "ExactMatch"})
TEXT = PromptText("Name the intent.\nOne word only.  \n", "Größe: {message}", (Demo("hi", "greeting", "e1"),))

PUBLISHER = """
import sys
from pathlib import Path
from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.errors import VersionConflictError
from rs_gateway.domain.publication import Action, Change

registry, name, won = PromptFiles(Path(sys.argv[1])), sys.argv[2], 0
for turn in range(40):
    live = registry.get("intent").live("m").number
    try:
        registry.make_live("intent", Change(Action.PUBLISH, 3 - live, None, name, str(turn), "race", previous=live))
        won += 1
    except VersionConflictError:
        pass
print(won)
"""
CHANGER = """
import itertools, sys
from pathlib import Path
from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.prompts import Origin, PromptTemplate, PromptText
from rs_gateway.domain.publication import Action, Change

registry, origin = PromptFiles(Path(sys.argv[1])), Origin("registered", "ann", "now")
for turn in itertools.count():
    text = PromptText("x" * 100_000)
    registry.register(PromptTemplate(f"{sys.argv[2]}-{turn}", "n", (), {}), text, origin=origin)
    live = registry.get("intent").live("m").number
    version = registry.add_version("intent", text, model=None, origin=origin).number
    registry.make_live("intent", Change(Action.PUBLISH, version, None, "ann", "now", "turn", previous=live))
    print(turn, flush=True)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "prompts"


@pytest.fixture
def registry(root: Path) -> PromptFiles:
    registry = PromptFiles(root)
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    return registry


def publish(version: int, *, previous: int | None) -> Change:
    return Change(Action.PUBLISH, version, None, "ann", "2026-03-03T12:00:00+00:00", "better", previous)


def problem_of(registry: PromptFiles, previous: RegistryState | None = None) -> str:
    problems = registry.load(previous).problems
    assert list(problems) == ["intent"]
    return problems["intent"]


# What the files look like


def test_the_files_can_be_read_and_diffed_by_people(registry: PromptFiles, root: Path) -> None:
    better = PromptText("Better.\n\tWith a tab.")
    registry.add_version("intent", better, model="small", origin=ORIGIN)
    registry.make_live("intent", replace(publish(2, previous=1), model="small"))
    files = {str(path.relative_to(root / "intent")): path.read_text("utf-8") for path in root.glob("intent/**/*.yaml")}
    assert files == {
        "template.yaml": "name: Intent\nvariables:\n- message\nevaluator:\n  name: ExactMatch\ndefault: false\n",
        "versions/0001.yaml": (
            f"content_hash: {TEXT.content_hash}\n"
            "origin:\n  kind: registered\n  by: ann\n  at: '2026-03-01T12:00:00+00:00'\n"
            "instruction: |\n  Name the intent.\n  One word only.  \n"
            "user: 'Größe: {message}'\n"
            "demos:\n- example_id: e1\n  user: hi\n  assistant: greeting\n"
        ),
        "versions/0002.yaml": (
            f"content_hash: {better.content_hash}\n"
            "model: small\n"
            "origin:\n  kind: registered\n  by: ann\n  at: '2026-03-01T12:00:00+00:00'\n"
            "instruction: |-\n  Better.\n  \tWith a tab.\n"
            "demos: []\n"
        ),
        "live.yaml": (
            "serving:\n  '*': 1\n  small: 2\nweights: {}\nhistory:\n"
            "- action: register\n  version: 1\n  by: ann\n  at: '2026-03-01T12:00:00+00:00'\n  reason: registered\n"
            "- action: publish\n  version: 2\n  model: small\n  by: ann\n  at: '2026-03-03T12:00:00+00:00'\n"
            "  reason: better\n  previous: 1\n"
        ),
    }


def test_a_change_leaves_no_temporary_file_beside_the_others(registry: PromptFiles, root: Path) -> None:
    registry.add_version("intent", PromptText("Better."), model=None, origin=ORIGIN)
    registry.make_live("intent", publish(2, previous=1))
    assert [path.name for path in root.glob("intent/**/.*")] == []


def test_a_template_written_by_hand_is_served(root: Path) -> None:
    folder = root / "greeting"
    (folder / "versions").mkdir(parents=True)
    (folder / "template.yaml").write_text("variables: [name]\nevaluator: {name: ExactMatch}\n")
    (folder / "versions" / "0001.yaml").write_text(
        "instruction: Greet {name}.\norigin: {kind: registered, by: bo, at: 2026-01-01}\n"
    )
    (folder / "versions" / "0002.yaml").write_text("instruction: Greet {name} twice.\n")
    (folder / "live.yaml").write_text('serving: {"*": 2, small: 1}\nweights: {greeting@small: 0.5}\nhistory: []\n')
    state = PromptFiles(root).load()
    assert dict(state.problems) == {}
    template = state.templates["greeting"]
    assert template.template.name == "greeting"
    assert template.versions[1].origin == Origin("registered", "bo", "2026-01-01")
    assert template.versions[2].origin.by == "edit by hand"
    assert (template.serving, template.weights) == ({"*": 2, "small": 1}, {"greeting@small": 0.5})


# Edits by hand


def test_an_edit_by_hand_changes_the_fingerprint(registry: PromptFiles, root: Path) -> None:
    seen = {registry.fingerprint()}
    live = root / "intent" / "live.yaml"
    live.write_text(live.read_text() + "# looked at on Monday\n")
    seen.add(registry.fingerprint())
    (root / "intent" / "versions" / "0002.yaml").write_text("instruction: Short.\n")
    seen.add(registry.fingerprint())
    shutil.rmtree(root / "intent")
    seen.add(registry.fingerprint())
    assert len(seen) == 4


@pytest.mark.parametrize("file", ["live.yaml", "versions/0001.yaml"])
def test_a_file_that_was_cut_off_anywhere_never_changes_what_is_served(
    registry: PromptFiles, root: Path, file: str
) -> None:
    registry.add_version("intent", PromptText("Better."), model="small", origin=ORIGIN)
    registry.make_live("intent", replace(publish(2, previous=1), model="small"))
    good = registry.load()
    path = root / "intent" / file
    whole = path.read_bytes()
    n_problems = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        state = registry.load(good)
        served = state.templates["intent"]
        assert (served.serving, served.live("m")) == (
            {"*": 1, "small": 2},
            good.templates["intent"].live("m"),
        )
        assert all(str(path) in problem for problem in state.problems.values())
        n_problems += len(state.problems)
    assert n_problems > len(whole) / 4
    path.write_bytes(whole)
    restored = registry.load()
    assert (restored.templates, restored.problems) == (good.templates, {})


def test_one_broken_template_does_not_keep_the_others_from_changing(registry: PromptFiles, root: Path) -> None:
    registry.register(replace(TEMPLATE, template_id="other"), TEXT, origin=ORIGIN)
    good = registry.load()
    (root / "intent" / "template.yaml").write_text("}")
    registry.add_version("other", PromptText("New."), model=None, origin=ORIGIN)
    state = registry.load(good)
    assert sorted(state.templates) == ["intent", "other"]
    assert list(state.problems) == ["intent"]
    assert list(state.templates["other"].versions) == [1, 2]


def test_an_edited_version_is_refused_and_the_remedy_is_named(registry: PromptFiles, root: Path) -> None:
    good = registry.load()
    path = root / "intent" / "versions" / "0001.yaml"
    path.write_text(path.read_text("utf-8").replace("One word", "Two words"), "utf-8")
    problem = problem_of(registry, good)
    assert str(path) in problem
    assert "Versions are immutable" in problem
    assert "new one with the next number" in problem
    assert registry.load(good).templates == good.templates
    with pytest.raises(RegistryError, match="immutable"):
        registry.get("intent")
    with pytest.raises(RegistryError, match="immutable"):
        registry.add_version("intent", TEXT, model=None, origin=ORIGIN)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("template.yaml", "", "the file holds no fields"),
        ("template.yaml", "- a\n", "the file holds no fields"),
        ("template.yaml", "name: x\n", "evaluator: the field is missing"),
        ("template.yaml", "evaluator: {}\nvariabels: [a]\n", "variabels: there is no such field"),
        ("template.yaml", "evaluator: {}\nvariables: [a, 2]\n", "variables.1: input should be a valid string, not 2"),
        ("template.yaml", "evaluator: {}\nvariables: [message, message]\n", "declared more than once"),
        ("template.yaml", "evaluator: {}\nvariables: []\n", "declares no variable message"),
        ("template.yaml", "evaluator: {}\nevaluator: {}\n", "line 2, column 1: no valid YAML: the key 'evaluator'"),
        ("template.yaml", "evaluator: {}\ndefault: 'yes'\n", "default: input should be a valid boolean"),
        ("template.yaml", "evaluator: [\n", "no valid YAML"),
        ("template.yaml", "evaluator: \x00\n", "no valid YAML"),
        ("template.yaml", "evaluator: !!python/object/apply:os.getcwd []\n", "no valid YAML"),
        ("live.yaml", 'serving: {"*": 1}\n', "history: the field is missing"),
        ("live.yaml", 'serving: {"*": 7}\nhistory: []\n', "serving.*: there is no version 7: name one of 1"),
        ("live.yaml", 'serving: {"*": "1"}\nhistory: []\n', "serving.*: input should be a valid integer"),
        ("live.yaml", 'serving: {"*": true}\nhistory: []\n', "serving.*: input should be a valid integer"),
        (
            "live.yaml",
            'serving: {"*": 1}\nweights: {a: -1}\nhistory: []\n',
            "weights.a: input should be greater than or equal",
        ),
        (
            "live.yaml",
            'serving: {"*": 1}\nweights: {a: .nan}\nhistory: []\n',
            "weights.a: input should be a finite number",
        ),
        ("live.yaml", 'serving: {"*": 1}\nhistory: [{}]\n', "history.0.action: the field is missing"),
        ("versions/0002.yaml", "user: hi\n", "instruction: the field is missing"),
        ("versions/0002.yaml", "instruction: 'a {'\n", "literal brace"),
        ("versions/0002.yaml", "instruction: '{name}'\n", "declares no variable name"),
        ("versions/0002.yaml", "instruction: a\ndemos: [{user: b}]\n", "demos.0.assistant: the field is missing"),
        ("versions/0002.yaml", "output: xml\ninstruction: a\n", "output: input should be 'bare', 'labelled' or 'json'"),
        (
            "versions/0002.yaml",
            "output: json\ninstruction: a\ndemos: [{user: b, assistant: c}]\n",
            "output format 'json'",
        ),
        ("versions/two.yaml", "instruction: a\n", "named by its number"),
        ("versions/2.yaml", "instruction: a\n", "named by its number"),
        ("versions/0000.yaml", "instruction: a\n", "named by its number"),
        ("versions/0002.yml", "instruction: a\n", "named by its number"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_the_field_and_what_is_wrong(
    registry: PromptFiles, root: Path, file: str, content: str, message: str
) -> None:
    (root / "intent" / file).write_text(content)
    problem = problem_of(registry)
    assert message in problem
    assert str(root / "intent" / "versions" if "no variable message" in message else root / "intent" / file) in problem


def test_a_file_that_is_no_text_is_named(registry: PromptFiles, root: Path) -> None:
    (root / "intent" / "template.yaml").write_bytes(b"name: \xff\xfe\n")
    assert "template.yaml: no valid YAML" in problem_of(registry)


@pytest.mark.parametrize("file", ["template.yaml", "live.yaml", "versions/0001.yaml", "versions"])
def test_a_missing_file_is_named(registry: PromptFiles, root: Path, file: str) -> None:
    good = registry.load()
    path = root / "intent" / file
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert str(root / "intent") in problem_of(registry, good)
    assert registry.load(good).templates == good.templates


def test_a_removed_template_is_gone(registry: PromptFiles, root: Path) -> None:
    good = registry.load()
    shutil.rmtree(root / "intent")
    state = registry.load(good)
    assert (dict(state.templates), dict(state.problems)) == ({}, {})


def test_what_is_no_template_is_ignored(registry: PromptFiles, root: Path, tmp_path: Path) -> None:
    (root / "README.md").write_text("notes")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    (root / "copy").symlink_to(root / "intent", target_is_directory=True)
    (root / "empty").mkdir()
    (root / "begun").mkdir()
    (root / "begun" / ".template.yaml.tmp").write_text("nam")
    (root / "intent" / "versions" / ".0002.yaml.swp").write_text("x")
    (root / "intent" / "notes.md").write_text("x")
    state = registry.load()
    assert list(state.templates) == ["intent"]
    assert dict(state.problems) == {}
    assert state.fingerprint == registry.fingerprint()


def test_a_folder_whose_name_is_no_template_id_is_a_problem(registry: PromptFiles, root: Path) -> None:
    shutil.copytree(root / "intent", root / "my intent")
    state = registry.load()
    assert list(state.templates) == ["intent"]
    assert "'my intent' is not allowed" in state.problems["my intent"]


# Writers


def test_a_version_that_is_there_already_is_never_overwritten(registry: PromptFiles, root: Path) -> None:
    taken = root / "intent" / "versions" / "0002.yaml"
    taken.write_text("instruction: Mine.\n")
    assert registry.add_version("intent", PromptText("Yours."), model=None, origin=ORIGIN).number == 3
    assert taken.read_text() == "instruction: Mine.\n"


def test_what_a_killed_registration_left_does_not_stand_in_the_way(root: Path) -> None:
    (root / ".new" / "intent" / "versions").mkdir(parents=True)
    (root / ".new" / "intent" / "versions" / "0001.yaml").write_text("instr")
    registry = PromptFiles(root)
    assert dict(registry.load().problems) == {}
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    assert registry.load().templates["intent"].versions[1].text == TEXT


def test_publishers_in_two_processes_never_both_win_over_the_same_version(registry: PromptFiles, root: Path) -> None:
    registry.add_version("intent", PromptText("Other."), model=None, origin=ORIGIN)
    arguments = [sys.executable, "-c", PUBLISHER, str(root)]
    processes = [
        subprocess.Popen([*arguments, name], cwd=ROOT, stdout=subprocess.PIPE, text=True) for name in ("ann", "bo")
    ]
    won = [int(process.communicate(timeout=400)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    published = registry.get("intent").history[1:]
    assert [sum(change.by == name for change in published) for name in ("ann", "bo")] == won
    assert [change.previous for change in published] == [1, *(change.version for change in published[:-1])]
    assert len(published) >= 40


def test_a_killed_publisher_leaves_a_registry_that_loads(registry: PromptFiles, root: Path) -> None:
    for life in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", CHANGER, str(root), f"life{life}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= 2 + life:
                    break
            process.send_signal(signal.SIGKILL)
        state = PromptFiles(root).load()
        assert dict(state.problems) == {}
        intent = state.templates["intent"]
        assert intent.history[-1].version == intent.serving["*"]
        assert len(intent.history) >= 3 + life
        added = registry.add_version("intent", PromptText("After it."), model=None, origin=ORIGIN)
        assert added.number == max(intent.versions) + 1


@pytest.mark.parametrize("n_syncs", range(12))
def test_a_writer_that_dies_at_any_sync_leaves_the_state_before_or_after_its_change(
    registry: PromptFiles, root: Path, monkeypatch: pytest.MonkeyPatch, n_syncs: int
) -> None:
    class Died(BaseException):
        pass

    left = [None] * n_syncs

    def dying_sync(descriptor: int) -> None:
        if not left:
            raise Died
        left.pop()

    other = replace(TEMPLATE, template_id="other")
    with monkeypatch.context() as patched, contextlib.suppress(Died):
        patched.setattr("rs_gateway.adapters.prompt_files.os.fsync", dying_sync)
        registry.add_version("intent", PromptText("Better."), model=None, origin=ORIGIN)
        registry.make_live("intent", publish(2, previous=1))
        registry.register(other, TEXT, origin=ORIGIN)
    state = PromptFiles(root).load()
    assert dict(state.problems) == {}
    intent = state.templates["intent"]
    assert (len(intent.versions), intent.serving["*"], len(intent.history)) in {(1, 1, 1), (2, 1, 1), (2, 2, 2)}
    assert "other" not in state.templates or state.templates["other"].versions[1].text == TEXT
    # Whoever comes next takes over.
    if "other" not in state.templates:
        registry.register(other, TEXT, origin=ORIGIN)
    number = registry.add_version("intent", PromptText("Next."), model=None, origin=ORIGIN).number
    assert registry.make_live("intent", publish(number, previous=intent.serving["*"])).serving == {"*": number}


def test_a_change_that_waits_too_long_for_another_one_is_refused(registry: PromptFiles, root: Path) -> None:
    impatient = PromptFiles(root, lock_timeout_s=0.01)
    with (
        filelock.FileLock(root / ".locks" / "intent.lock"),
        pytest.raises(RegistryError, match="being changed by another process"),
    ):
        impatient.add_version("intent", TEXT, model=None, origin=ORIGIN)


def test_a_registry_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    registry = PromptFiles(tmp_path / "file")
    with pytest.raises(RegistryError, match="cannot be written under"):
        registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    with pytest.raises(RegistryError, match="cannot be read"):
        registry.load()
