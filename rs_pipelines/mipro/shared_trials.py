"""Optuna trials that any process may take: offered, claimed, delivered, and taken back from the dead."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from rs_gateway.domain.errors import ConfigurationError
from rs_pipelines.mipro.records import Candidate, TrialKind

RowScores: TypeAlias = Mapping[int, float | None]
"""Position in the study's row order -> score; None is missing."""
_GONE = (UpdateFinishedTrialError, KeyError)
"""Somebody else has ended the trial, or its leader has made the study anew, as he does when a second round begins."""
_WORK, _SCORES, _WORKER, _BEAT = "work", "scores", "worker", "beat"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Rows that a candidate is to be scored on, by whoever is free."""

    candidate: Candidate
    rows: tuple[int, ...]
    kind: TrialKind


@dataclass(frozen=True, slots=True)
class Offer:
    """An assignment that waits, or is worked on, as a trial of this number in Optuna."""

    number: int
    work: Assignment


def open_storage(url: str) -> BaseStorage:
    """Optuna's tables in a database of their own. Raises ConfigurationError when it cannot be used."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        raise ConfigurationError(
            f"stores.trials cannot be used ({error}): write postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE, a "
            "database that nothing else is in, Dagster's tables least of all."
        ) from error


class SharedTrials:
    """The trials of one Optuna study, in a storage that several processes reach. Blocking."""

    def __init__(self, study: optuna.Study, storage: BaseStorage) -> None:
        self._study, self._storage = study, storage
        self._study_id = storage.get_study_id_from_name(study.study_name)

    def offer(self, work: Sequence[Assignment], space: Mapping[str, BaseDistribution]) -> list[Offer]:
        """Add a waiting trial for each assignment, in their order."""
        before = len(self._study.get_trials(deepcopy=False))
        self._study.add_trials(
            create_trial(
                state=TrialState.WAITING,
                params={name: getattr(part.candidate, name) for name in space},
                distributions=dict(space),
                user_attrs={_WORK: {"rows": list(part.rows), "kind": part.kind}},
            )
            for part in work
        )
        return [Offer(before + n, part) for n, part in enumerate(work)]

    def claim(self) -> Offer | None:
        """A waiting trial that is now this process's alone; None when there is none, or the study was made anew."""
        try:
            waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        except KeyError:
            return None
        for trial in waiting:
            try:
                trial_id = self._id(trial.number)
                if not self._storage.set_trial_state_values(trial_id, state=TrialState.RUNNING):
                    continue
                self._storage.set_trial_user_attr(trial_id, _WORKER, f"{socket.gethostname()} {os.getpid()}")
            except _GONE:
                continue
            return _offer_of(trial)
        return None

    def beat(self, offer: Offer, count: int) -> None:
        """Show that whoever claimed the trial is alive: a number that changes."""
        try:
            self._storage.set_trial_user_attr(self._id(offer.number), _BEAT, count)
        except _GONE:
            return

    def deliver(self, offer: Offer, scores: RowScores, value: float | None) -> bool:
        """Tell what came out; False when the trial was taken back or made anew in the meantime.

        Args:
            value: mean of all rows that the candidate has seen; None: void.
        """
        try:
            trial_id = self._id(offer.number)
            self._storage.set_trial_user_attr(trial_id, _SCORES, [[row, score] for row, score in scores.items()])
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
            values = None if value is None else [value]
            return self._storage.set_trial_state_values(trial_id, state=state, values=values)
        except _GONE:
            return False

    def give_back(self, offer: Offer) -> None:
        """Fail a trial that was claimed: whoever offered it looks for himself."""
        try:
            self._storage.set_trial_state_values(self._id(offer.number), state=TrialState.FAIL)
        except _GONE:
            return

    def progress(self, offers: Sequence[Offer]) -> "dict[int, Progress]":
        """Number -> how far each of the offers is."""
        trials = self._study.get_trials(deepcopy=False)
        return {offer.number: _progress_of(trials[offer.number]) for offer in offers}

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an offer is.

    Attributes:
        ended: delivered, or given back.
        scores: what was delivered; None as long as nothing is, and when it was given back.
        sign: of life; it changes as long as somebody works on it. None while the offer waits.
        worker: who claimed it: machine and process.
    """

    ended: bool
    scores: RowScores | None
    sign: int | None
    worker: str | None


def _offer_of(trial: FrozenTrial) -> Offer:
    work: dict[str, Any] = trial.user_attrs[_WORK]
    return Offer(trial.number, Assignment(Candidate(**trial.params), tuple(work["rows"]), work["kind"]))


def _progress_of(trial: FrozenTrial) -> Progress:
    scores: list[tuple[int, float | None]] | None = trial.user_attrs.get(_SCORES)
    waiting = trial.state is TrialState.WAITING
    return Progress(
        ended=trial.state.is_finished(),
        scores=None if scores is None or not trial.state.is_finished() else dict(scores),
        sign=None if waiting else int(trial.user_attrs.get(_BEAT, 0)),
        worker=trial.user_attrs.get(_WORKER),
    )
