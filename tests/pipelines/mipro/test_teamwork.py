"""Several processes on one study: the same study as one alone makes, whoever takes part and whoever dies."""

import re
from dataclasses import replace
from pathlib import Path

import anyio
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from rs_gateway.adapters.scripted_chat import Reply, ScriptedChat, ScriptedReply
from rs_gateway.domain.chat import ProviderCall
from rs_pipelines.call_budget import CallBudget
from rs_pipelines.mipro import teamwork
from rs_pipelines.mipro.evaluations import Evaluations, Tools
from rs_pipelines.mipro.records import Candidate, StudyRecord
from rs_pipelines.mipro.request import row_order
from rs_pipelines.mipro.reserve import ComparisonReserve
from rs_pipelines.mipro.search import ignore_event, run_study, utc_now
from rs_pipelines.mipro.shared_trials import Assignment, SharedTrials, open_storage
from rs_pipelines.mipro.teamwork import join_study
from rs_pipelines.sample import Split
from rs_pipelines.studies import StudyFiles
from tests.e2e.processes import started
from tests.pipelines.parcels import EVALUATOR, cache_at, models, parcels, request, tiny_model
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.running import eventually
from tests.upstream import Exchange, Upstream


def slowly(call: ProviderCall) -> Reply:
    reply = tiny_model(call)
    return ScriptedReply(reply, latency_s=0.002) if isinstance(reply, str) else reply


def course(record: StudyRecord) -> list[tuple[Candidate, int, float | None]]:
    return [(trial.candidate, trial.n_rows, trial.value) for trial in record.trials]


async def led(folder: Path, storage: BaseStorage | None) -> StudyRecord:
    wanted = replace(request(), looks_at_once=2)
    asked = models(ScriptedChat(slowly), cache_at(folder), concurrency=2)
    return await run_study(wanted, asked, evaluator=EVALUATOR, files=StudyFiles(folder / "studies"), storage=storage)


async def helped(folder: Path, storage: BaseStorage) -> int:
    """What a process does that joins: it finds the study, and takes looks until it has ended."""
    files, sample = StudyFiles(folder / "studies"), parcels()
    while not (found := files.studies(request().target)):  # noqa: ASYNC110  (files tell nobody)
        await anyio.sleep(0.01)
    record = found[0]
    asked = models(ScriptedChat(slowly), cache_at(folder), concurrency=2)
    budget = CallBudget(asked.task.cache, record.study_id)
    reserve = ComparisonReserve(request(), task=asked.task, evaluator=EVALUATOR)
    tools = Tools(asked.task.on(budget), EVALUATOR, budget, reserve, files, ignore_event, utc_now)
    rows = row_order(sample.rows(Split.VAL), record.plan)
    return await join_study(Evaluations(record, rows, tools), storage, on_delivered=lambda _: None)


def test_a_study_with_help_is_the_study_without(tmp_path: Path) -> None:
    alone = anyio.run(led, tmp_path / "alone", None)
    taken: list[int] = []

    records: list[StudyRecord] = []

    async def together() -> None:
        storage = InMemoryStorage()

        async def helper() -> None:
            taken.append(await helped(tmp_path / "together", storage))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(helper)
            records.append(await led(tmp_path / "together", storage))

    anyio.run(together)
    [record] = records
    assert course(record) == course(alone)
    assert record.best == alone.best
    assert taken[0] > 0


def test_what_a_dead_helper_had_claimed_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = anyio.run(led, tmp_path / "alone", None)
    monkeypatch.setattr(teamwork, "_SILENT_S", 0.3)
    claimed: list[int] = []

    records: list[StudyRecord] = []

    async def together() -> None:
        storage = InMemoryStorage()

        async def claims_and_dies() -> None:
            while not claimed:
                await anyio.sleep(0.001)
                for summary in optuna.get_all_study_summaries(storage=storage):
                    study = optuna.load_study(study_name=summary.study_name, storage=storage)
                    offer = SharedTrials(study, storage).claim()
                    if offer is not None:
                        claimed.append(offer.number)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claims_and_dies)
            records.append(await led(tmp_path / "together", storage))

    anyio.run(together)
    [record] = records
    assert claimed
    assert course(record) == course(alone)


def test_a_helper_whose_study_is_made_anew_has_nothing_to_do_and_goes_on(database: str) -> None:
    storage = open_storage(database.replace("postgresql://", "postgresql+psycopg2://"))
    study = optuna.create_study(study_name="race", storage=storage)
    shared = SharedTrials(study, storage)
    work = [Assignment(Candidate(0, 0), (1, 2), "minibatch"), Assignment(Candidate(0, 0), (3,), "minibatch")]
    shared.offer(work, {"instruction": CategoricalDistribution((0,)), "demo_set": CategoricalDistribution((0,))})
    claimed = shared.claim()
    assert claimed is not None

    optuna.delete_study(study_name="race", storage=storage)

    assert shared.claim() is None
    shared.beat(claimed, 1)
    assert not shared.deliver(claimed, {1: 1.0, 2: 0.0}, 0.5)
    shared.give_back(claimed)


@pytest.mark.e2e
def test_two_processes_work_on_one_study_in_postgres(tmp_path: Path, database: str) -> None:
    def race_has_begun() -> bool:
        return any(len(record.instructions) > 1 for record in bench.studies.studies(target))

    trials_url = database.replace("postgresql://", "postgresql+psycopg2://")

    async def tiny_until_told(exchange: Exchange) -> None:
        if not exchange.told.is_set() and race_has_begun():
            await exchange.told.wait()
        await tiny(exchange)

    with Upstream([tiny_until_told]).running() as upstream:
        mipro = {"num_trials": 6, "minibatch_size": 20, "looks_at_once": 2, "concurrency": 2}
        bench = workbench(tmp_path, upstream, mipro_v2=mipro, stores={"trials": trials_url})
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        with started("optimize", "parcels", cwd=tmp_path) as leader:
            eventually(lambda: upstream.n_busy == 2 or leader.poll() is not None, timeout_s=240)
            with started("optimize", "parcels", "--join", cwd=tmp_path) as helper:
                # Nobody asks for more than two answers at once: four are asked by two processes.
                eventually(lambda: upstream.n_busy == 4 or helper.poll() is not None, timeout_s=240)
                upstream.tell()
                log = tmp_path / "process.log"
                assert (leader.wait(240), helper.wait(240)) == (0, 0), log.read_text()
    [record] = bench.studies.studies(target)
    trials = optuna.load_study(study_name=record.study_id, storage=open_storage(trials_url)).trials
    completed = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert [trial.value for trial in completed] == [trial.value for trial in record.trials]
    # When a second round begins, the trials so far are written anew, without the names of those who took them.
    assert re.search(r"\b[1-9]\d* looks? taken", log.read_text())
