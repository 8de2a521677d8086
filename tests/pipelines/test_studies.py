"""Studies on disk: whole files, the latest one, and one optimisation of a target at a time."""

import os
import re
import signal
import subprocess
import sys
from contextvars import Context
from pathlib import Path

import anyio
import pytest

from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_gateway.domain.errors import StoreError
from rs_pipelines.mipro.search import run_study
from rs_pipelines.sample import Target
from rs_pipelines.studies import StudyBusyError, StudyFiles
from tests.pipelines.parcels import EVALUATOR, TARGET, cache_at, models, request, tiny_model

_HOLDING = """
import sys, time
from pathlib import Path
from rs_pipelines.sample import Target
from rs_pipelines.studies import StudyFiles
with StudyFiles(Path(sys.argv[1])).lock(Target("parcels", "tiny")):
    print("held", flush=True)
    time.sleep(60)
"""


def lock_elsewhere(files: StudyFiles) -> None:
    """Lock and release the target as another task does."""

    def lock() -> None:
        with files.lock(TARGET):
            pass

    Context().run(lock)


def test_the_second_optimisation_of_a_target_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    files = StudyFiles(tmp_path)
    with files.lock(TARGET):
        with pytest.raises(StudyBusyError, match=rf"process {os.getpid()} on .* since 20") as refused:
            lock_elsewhere(files)
        assert refused.value.holder is not None
    lock_elsewhere(files)


def test_the_steps_of_an_optimisation_may_lock_its_target_and_do_not_free_it(tmp_path: Path) -> None:
    with StudyFiles(tmp_path).lock(TARGET):
        with StudyFiles(tmp_path).lock(TARGET):
            pass
        with pytest.raises(StudyBusyError, match=f"process {os.getpid()}"):
            lock_elsewhere(StudyFiles(tmp_path))
    lock_elsewhere(StudyFiles(tmp_path))


def test_another_target_is_free(tmp_path: Path) -> None:
    files = StudyFiles(tmp_path)
    with files.lock(TARGET), files.lock(Target("parcels", "other")):
        pass


def test_a_dead_holder_blocks_nobody(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDING, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StudyBusyError, match=f"process {holder.pid}"), StudyFiles(tmp_path).lock(TARGET):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with StudyFiles(tmp_path).lock(TARGET):
        pass


def test_two_searches_of_one_target_at_once_the_second_is_refused(tmp_path: Path) -> None:
    refused: list[StudyBusyError] = []

    async def optimise() -> None:
        asked = models(ScriptedChat(tiny_model), cache_at(tmp_path))
        try:
            await run_study(request(), asked, evaluator=EVALUATOR, files=StudyFiles(tmp_path / "studies"))
        except StudyBusyError as error:
            refused.append(error)

    async def together() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(optimise)
            group.start_soon(optimise)

    anyio.run(together)
    assert len(refused) == 1
    assert StudyFiles(tmp_path / "studies").latest(TARGET) is not None


def test_nothing_is_latest_before_a_study_ended(tmp_path: Path) -> None:
    files = StudyFiles(tmp_path)
    assert files.latest(TARGET) is None
    assert files.studies(TARGET) == []
    assert files.load_comparison(TARGET, "none") is None


def test_a_record_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    files = StudyFiles(tmp_path)
    folder = files.directory(TARGET, "abc")
    folder.mkdir(parents=True)
    (folder / "study.json").write_text("{")
    with pytest.raises(StoreError, match="delete its folder"):
        files.load_study(TARGET, "abc")
    for content in (b"[]", b'{"study_id": "\xff"}', b'{"study_id": ' + b"[" * 100_000):
        (folder / "comparison.json").write_bytes(content)
        with pytest.raises(StoreError, match="compare again"):
            files.load_comparison(TARGET, "abc")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"plan": 3}', b'{"plan": {}}', b"\xff\xfe", b'{"study_id": "\xff"}']
)
def test_a_study_of_an_older_program_that_cannot_be_read_is_named_with_what_to_do(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / TARGET.key / "s1" / "study.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"s1.* cannot be read .*: delete its folder"):
        StudyFiles(tmp_path).ids()
    (fault,) = StudyFiles(tmp_path).faults()
    assert re.search(r"s1.* cannot be read .*: delete its folder", fault)
    assert StudyFiles(tmp_path).targets() == [], "those that can be read are found without it"
