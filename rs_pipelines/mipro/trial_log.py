"""The study in Optuna: proposes candidates by TPE, and mirrors our trials where Optuna's own tools find them."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from rs_pipelines.mipro.records import Candidate, TrialRecord
from rs_pipelines.mipro.shared_trials import Assignment, Offer, SharedTrials

_STARTUP_TRIALS = 4
"""Random trials before TPE takes over; Optuna's 10 would make a small study random altogether."""


class TrialLog:
    """One Optuna study. The study record is the truth; Optuna's trials follow it and are rebuilt where they do not.

    Blocking: call it from a worker thread.
    """

    def __init__(
        self,
        place: Path | BaseStorage,
        study_id: str,
        *,
        n_instructions: int,
        n_demo_sets: int,
        n_output_formats: int = 1,
        seed: int,
        trials: Sequence[TrialRecord],
    ) -> None:
        """Open or create the study and bring it in line with `trials`. What a crash left running is told FAIL.

        Args:
            place: the journal file, or a storage that other processes reach too.
        """
        # Optuna reports every trial on stderr otherwise; progress is our events' job.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._place, self._study_id, self._seed = place, study_id, seed
        self._space: dict[str, BaseDistribution] = {
            "instruction": CategoricalDistribution(tuple(range(n_instructions))),
            "demo_set": CategoricalDistribution(tuple(range(n_demo_sets))),
        }
        if n_output_formats > 1:  # one alone is no choice, and older journals have none
            self._space["output_format"] = CategoricalDistribution(tuple(range(n_output_formats)))
        if isinstance(place, Path):
            place.parent.mkdir(parents=True, exist_ok=True)
            # The lock of a killed process; whoever opens the journal holds the target's own lock.
            place.with_name(place.name + ".lock").unlink(missing_ok=True)
        self._study = self._agreeing(trials) or self._rebuilt(trials)

    def propose(self, number: int) -> tuple[FrozenTrial, Candidate]:
        """The sampler's choice for our trial `number`.

        The sampler is seeded from (seed, number), so a resumed study goes on as an uninterrupted one would.
        """
        digest = hashlib.sha256(f"{self._seed}:{number}".encode()).digest()
        self._study.sampler = _sampler(int.from_bytes(digest[:4]))
        trial = self._study.ask(self._space)
        frozen = self._study.trials[trial.number]
        return frozen, Candidate(**frozen.params)

    def tell(self, trial: FrozenTrial, value: float | None) -> None:
        """Report a proposal's value; None (void, or replaced) is told as FAIL, which the sampler ignores."""
        if value is None:
            self._study.tell(trial.number, state=TrialState.FAIL)
        else:
            self._study.tell(trial.number, value)

    def add(self, candidate: Candidate, value: float) -> None:
        """Add an evaluation that the sampler did not propose."""
        self._study.add_trial(self._completed(candidate, value))

    def offer(self, work: Sequence[Assignment]) -> list[Offer]:
        """Let whoever has joined take a part; `shared` says how far they are."""
        return self.shared.offer(work, self._space)

    @property
    def shared(self) -> SharedTrials:
        """The same trials, for several processes."""
        return SharedTrials(self._study, self._storage)

    def _open(self) -> optuna.Study:
        if isinstance(self._place, Path):
            lock = JournalFileOpenLock(str(self._place))
            self._storage: BaseStorage = JournalStorage(JournalFileBackend(str(self._place), lock_obj=lock))
        else:
            self._storage = self._place
        return optuna.create_study(
            storage=self._storage,
            study_name=self._study_id,
            sampler=_sampler(self._seed),
            direction="maximize",
            load_if_exists=True,
        )

    def _agreeing(self, trials: Sequence[TrialRecord]) -> optuna.Study | None:
        """The study on disk, if it can be read and says what the record says."""
        # A killed process can leave half a line at the end, and whatever is written next would be glued to it.
        path = self._place
        if isinstance(path, Path) and path.exists() and not path.read_bytes().endswith(b"\n"):
            return None
        try:
            study = self._open()
        except (ValueError, KeyError):
            return None
        for unfinished in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            study.tell(unfinished.number, state=TrialState.FAIL)
        completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if any(trial.distributions != self._space for trial in completed):
            return None
        told = [(Candidate(**t.params), t.value) for t in completed]
        return study if told == [(t.candidate, t.value) for t in _valid(trials)] else None

    def _rebuilt(self, trials: Sequence[TrialRecord]) -> optuna.Study:
        if isinstance(self._place, Path):
            self._place.unlink(missing_ok=True)
        elif self._study_id in optuna.get_all_study_names(self._place):
            optuna.delete_study(study_name=self._study_id, storage=self._place)
        study = self._open()
        study.add_trials([self._completed(trial.candidate, trial.value or 0.0) for trial in _valid(trials)])
        return study

    def _completed(self, candidate: Candidate, value: float) -> FrozenTrial:
        params = {name: level for name, level in asdict(candidate).items() if name in self._space}
        return create_trial(params=params, distributions=dict(self._space), value=value)


def _valid(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [trial for trial in trials if trial.value is not None]


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=_STARTUP_TRIALS)
