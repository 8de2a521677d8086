"""One study, several processes: its leader decides what is looked at next, and whoever has joined takes looks.

What comes out does not depend on who looked: the leader takes results in the order in which he offered the looks.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread
import optuna
from optuna.storages import BaseStorage

from rs_pipelines.call_budget import BudgetExhaustedError
from rs_pipelines.mipro.evaluations import Evaluations, Scored
from rs_pipelines.mipro.shared_trials import Assignment, Offer, Progress, SharedTrials
from rs_pipelines.mipro.trial_log import TrialLog

_POLL_S = 0.2
_BEAT_S = 2.0
_SILENT_S = 20.0
"""A helper that has shown no sign of life for so long is dead, and what it had claimed is taken back."""


@dataclass(slots=True)
class _Watched:
    sign: int | None = None
    since: float = 0.0

    def is_silent(self, progress: Progress, now: float) -> bool:
        """Whether a claimed trial has shown no sign of life for too long. By the leader's clock alone."""
        if progress.sign is None or progress.sign != self.sign:
            self.sign, self.since = progress.sign, now
        return progress.sign is not None and now - self.since > _SILENT_S


async def evaluate_together(
    work: Sequence[Assignment], state: Evaluations, log: TrialLog, *, now: Callable[[], float] = time.monotonic
) -> list[Scored]:
    """What each assignment brought, in their order: the leader's share, and that of whoever has joined.

    Raises BudgetExhaustedError.
    """
    offers = await anyio.to_thread.run_sync(log.offer, work)
    shared, found, watched = log.shared, dict[int, Scored](), {offer.number: _Watched() for offer in offers}
    while len(found) < len(offers):
        mine = await anyio.to_thread.run_sync(shared.claim)
        if mine is not None:
            watched.pop(mine.number, None)
            found[mine.number] = await _work(mine, state, shared)
            continue
        progress = await anyio.to_thread.run_sync(shared.progress, [o for o in offers if o.number not in found])
        for offer in offers:
            seen = progress.get(offer.number)
            if seen is None:
                continue
            if seen.ended:
                # Nothing was delivered by somebody who died or gave up: the leader looks himself.
                scores = seen.scores
                part = offer.work
                found[offer.number] = (
                    Scored(scores)
                    if scores is not None
                    else await state.score(part.candidate, part.rows, kind=part.kind)
                )
            elif watched[offer.number].is_silent(seen, now()):
                await anyio.to_thread.run_sync(shared.give_back, offer)
        if len(found) < len(offers):
            await anyio.sleep(_POLL_S)
    return [found[offer.number] for offer in offers]


async def join_study(state: Evaluations, storage: BaseStorage, *, on_delivered: Callable[[int], None]) -> int:
    """Take looks of a search that another process leads, until it has ended; how many were delivered.

    Args:
        state: of the study, as it was saved; read anew before every look.
        on_delivered: called with the number of looks so far.
    """
    n = 0
    while True:
        await state.resume()
        if state.record.finished:
            return n
        shared = await anyio.to_thread.run_sync(_shared, state.record.study_id, storage)
        offer = None if shared is None else await anyio.to_thread.run_sync(shared.claim)
        if shared is None or offer is None:
            await anyio.sleep(_POLL_S)
            continue
        # What was offered was saved before: the candidate may be newer than what was read above.
        await state.resume()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_show_life, offer, shared)
            try:
                await _work(offer, state, shared)
                n += 1
            except BudgetExhaustedError:
                await anyio.to_thread.run_sync(shared.give_back, offer)
            finally:
                tasks.cancel_scope.cancel()
        on_delivered(n)


async def _work(offer: Offer, state: Evaluations, shared: SharedTrials) -> Scored:
    part = offer.work
    scored = await state.score(part.candidate, part.rows, kind=part.kind)
    value = state.value(part.candidate, scored.values)
    await anyio.to_thread.run_sync(shared.deliver, offer, scored.values, value)
    return scored


async def _show_life(offer: Offer, shared: SharedTrials) -> None:
    count = 0
    while True:
        count += 1
        await anyio.to_thread.run_sync(shared.beat, offer, count)
        await anyio.sleep(_BEAT_S)


def _shared(study_id: str, storage: BaseStorage) -> SharedTrials | None:
    """The study's trials; None while there are none."""
    try:
        return SharedTrials(optuna.load_study(study_name=study_id, storage=storage), storage)
    except KeyError:
        return None
