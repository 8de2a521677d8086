"""Racing: which candidate to look at next, and which to choose, from row-level results alone.

Both are functions of the results, so a search that was killed goes on as it would have gone on. The belief behind them
is a linear mixed model of the scores:

    score(candidate, row) = level(candidate) + difficulty(row) + noise
    level(candidate) = mean + effect(instruction) + effect(demo set) + effect(output format) + interaction

with normal effects whose spreads are averaged over a grid, each weighted by its marginal likelihood. A candidate that
was seen on few rows is believed to be like its instruction and its demo set; if all candidates seem alike, differences
are believed less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, erf, exp, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from rs_pipelines.mipro.budget import LEAST_SEEN
from rs_pipelines.mipro.estimates import RowValues
from rs_pipelines.mipro.records import LIVE, Candidate

_FloatArray = NDArray[np.float64]

_INSTRUCTION_SPREADS = (0.005, 0.03, 0.1)
_DEMO_SET_SPREADS = (0.005, 0.05, 0.2)
_OUTPUT_FORMAT_SPREADS = (0.005, 0.05, 0.2)
_INTERACTION_SPREADS = (0.005, 0.03, 0.1)
"""Standard deviations of the effects, in score units: none to speak of, some, large."""
_MEAN_SPREAD = 1.0
_LEAST_VARIANCE = 1e-12
LEAST_BELIEF = 0.75
"""Probability with which the choice must be better than the live version."""
"""Part of the rows that the choice must have seen."""
_A_POINT, _DOUBT = 0.01, 0.05
"""A race ends when nothing is left that is likely to be better by a point."""
_LEAST_NOISE = 0.005
"""Variance that one row's score has at least; a handful of equal scores proves nothing."""


@dataclass(frozen=True, slots=True)
class Look:
    """Show `candidate`, which has seen `seen` rows, the rows up to `n_rows` of the study's row order."""

    candidate: Candidate
    n_rows: int
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Levels:
    """What is believed about the candidates' mean scores: jointly normal.

    Attributes:
        candidates: in the order of the arrays.
        means: shape (n_candidates,); covariance: shape (n_candidates, n_candidates).
    """

    candidates: tuple[Candidate, ...]
    means: _FloatArray
    covariance: _FloatArray

    def superiority(self, candidate: int, other: int, *, by: float = 0.0) -> float:
        """Probability that one candidate is better than another by more than `by`, both named by their positions."""
        mean, deviation = self._difference(candidate, other)
        return 0.5 * (1 + erf((mean - by) / deviation / sqrt(2)))

    def improvement(self, candidate: int, leader: int) -> float:
        """Expected positive part of the difference between two candidates, named by their positions."""
        return _positive_part(*self._difference(candidate, leader))

    def _difference(self, candidate: int, other: int) -> tuple[float, float]:
        """Mean and standard deviation."""
        covariance = self.covariance
        variance = covariance[candidate, candidate] + covariance[other, other] - 2 * covariance[candidate, other]
        return float(self.means[candidate] - self.means[other]), sqrt(max(float(variance), _LEAST_VARIANCE))


def believed_levels(results: Mapping[Candidate, RowValues], candidates: Sequence[Candidate]) -> Levels:
    """The posterior of all candidates' levels, those that were never looked at included.

    Args:
        results: row-level results so far, at least one row's.
        candidates: all that there are; `results` knows no others.
    """
    scores = _score_matrix(results, candidates)
    seen = ~np.isnan(scores)
    center = float(np.nanmean(scores))
    noise, difficulty = _variances(scores, seen)
    precision, weighted = _evidence(scores - center, seen, noise=noise, difficulty=difficulty)
    priors = _priors(tuple(candidates))
    n = len(candidates)
    # Posterior covariance (prior^-1 + precision)^-1, without inverting a prior that may be nearly singular.
    system = np.eye(n) + priors @ precision
    covariances = np.linalg.solve(system, priors)
    means = covariances @ weighted
    log_likelihoods = 0.5 * means @ weighted - 0.5 * np.linalg.slogdet(system)[1]
    weights = np.exp(log_likelihoods - log_likelihoods.max())
    weights /= weights.sum()
    mean = weights @ means
    spread = means - mean
    covariance = np.einsum("g,gij->ij", weights, covariances) + np.einsum("g,gi,gj->ij", weights, spread, spread)
    return Levels(tuple(candidates), mean + center, covariance)


def next_look(
    results: Mapping[Candidate, RowValues], candidates: Sequence[Candidate], *, n_rows: int, step: int, left: int
) -> Look | None:
    """What to evaluate next: the live version on all rows, then the leader or its most promising challenger.

    The challenger is the candidate that is expected to beat the leader by most. Of the two, the one that has seen fewer
    rows is shown `step` more. A leader that could not be chosen yet comes first when the rest of the rows is needed for
    that, or when nothing could be better by a point.

    Args:
        n_rows: length of the study's row order.
        left: rows that may still be evaluated, for all candidates together; at least 1.

    Returns:
        None when neither can see more rows.

    Source: top-two expected improvement, Qin, Klabjan & Russo (2017), with paired rows in place of its coin.
    """
    rows_seen = {candidate: len(results.get(candidate, ())) for candidate in candidates}
    if rows_seen[LIVE] < n_rows:
        return Look(LIVE, n_rows)
    levels = believed_levels(results, candidates)
    leader = int(np.argmax(levels.means))
    lacking = ceil(LEAST_SEEN * n_rows) - rows_seen[candidates[leader]]
    if lacking > 0 and (left <= LEAST_SEEN * n_rows or levels.means[leader] >= 1 - _A_POINT):
        return _look(candidates[leader], rows_seen, n_rows, min(step, left))
    others = [n for n in range(len(candidates)) if n != leader]
    for challenger in sorted(others, key=lambda n: -levels.improvement(n, leader)):
        pair = [candidates[leader], candidates[challenger]]
        fewer = min(pair, key=lambda candidate: rows_seen[candidate])
        if rows_seen[fewer] < n_rows:
            return _look(fewer, rows_seen, n_rows, min(step, left))
    return None


def next_looks(
    results: Mapping[Candidate, RowValues],
    candidates: Sequence[Candidate],
    *,
    n_rows: int,
    step: int,
    left: int,
    at_once: int,
) -> list[Look]:
    """Up to `at_once` looks at different candidates: each is what would come next if the ones before it brought what is
    believed.

    Args:
        n_rows, step, left: as of `next_look`.
    """
    expected, looks = dict(results), list[Look]()
    while left > 0 and len(looks) < at_once:
        look = next_look(expected, candidates, n_rows=n_rows, step=step, left=left)
        if look is None or any(look.candidate == other.candidate for other in looks):
            break
        looks.append(look)
        left -= look.n_rows - look.seen
        if look.candidate == LIVE or len(looks) == at_once:
            break
        believed = believed_levels(expected, candidates).means[candidates.index(look.candidate)]
        known = expected.get(look.candidate, {})
        expected[look.candidate] = {**known, **{row: float(believed) for row in range(look.seen, look.n_rows)}}
    return looks


def _look(candidate: Candidate, rows_seen: Mapping[Candidate, int], n_rows: int, step: int) -> Look:
    return Look(candidate, min(n_rows, rows_seen[candidate] + step), rows_seen[candidate])


def is_settled(results: Mapping[Candidate, RowValues], candidates: Sequence[Candidate], *, n_rows: int) -> bool:
    """Whether the leader could be chosen, and all others together are better by a point with less than 0.05.

    The probabilities of the others are added up (Boole's inequality), so it is rather too late than too early.
    """
    if len(results.get(LIVE, ())) < n_rows:
        return False
    levels = believed_levels(results, candidates)
    leader = int(np.argmax(levels.means))
    if len(results.get(candidates[leader], ())) < LEAST_SEEN * n_rows:
        return False
    if levels.means[leader] >= 1 - _A_POINT:
        return True
    others = (levels.superiority(n, leader, by=_A_POINT) for n in range(len(candidates)) if n != leader)
    return sum(others) < _DOUBT


def cheapest(
    results: Mapping[Candidate, RowValues],
    candidates: Sequence[Candidate],
    *,
    lengths: Mapping[Candidate, int],
    n_rows: int,
    max_loss: float,
) -> Candidate:
    """The shortest prompt that loses at most `max_loss` to the live version, believed with a probability of 0.75.

    Candidates that were seen on less than 30 % of the rows are not chosen. The live version, when none is shorter.
    """
    levels = believed_levels(results, candidates)
    live = candidates.index(LIVE)
    eligible = [
        n
        for n, candidate in enumerate(candidates)
        if lengths[candidate] < lengths[LIVE]
        and len(results.get(candidate, ())) >= LEAST_SEEN * n_rows
        and levels.superiority(n, live, by=-max_loss) >= LEAST_BELIEF
    ]
    return candidates[min(eligible, key=lambda n: (lengths[candidates[n]], -levels.means[n], n))] if eligible else LIVE


def chosen(
    results: Mapping[Candidate, RowValues],
    candidates: Sequence[Candidate],
    *,
    lengths: Mapping[Candidate, int],
    n_rows: int,
) -> Candidate:
    """The candidate with the highest believed level; less than half a row apart, the shortest prompt.

    The live version is kept unless another is believed to be better with a probability of 0.75. Candidates that were
    seen on less than 30 % of the rows are not chosen.

    Args:
        lengths: characters of each candidate's prompt.
        n_rows: length of the study's row order.
    """
    levels = believed_levels(results, candidates)
    live = candidates.index(LIVE)
    eligible = [
        n
        for n, candidate in enumerate(candidates)
        if len(results.get(candidate, ())) >= LEAST_SEEN * n_rows and levels.superiority(n, live) >= LEAST_BELIEF
    ]
    if not eligible:
        return LIVE
    best = max(levels.means[n] for n in eligible)
    near = [n for n in eligible if levels.means[n] > best - 0.5 / n_rows]
    return candidates[min(near, key=lambda n: (lengths[candidates[n]], -levels.means[n], n))]


def _score_matrix(results: Mapping[Candidate, RowValues], candidates: Sequence[Candidate]) -> _FloatArray:
    """Shape (n_candidates, rows seen by anybody); NaN is unseen or missing."""
    width = 1 + max(max(values, default=0) for values in results.values())
    scores = np.full((len(candidates), width), np.nan)
    for n, candidate in enumerate(candidates):
        for row, value in results.get(candidate, {}).items():
            scores[n, row] = np.nan if value is None else value
    return scores


def _variances(scores: _FloatArray, seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Variance of the noise and of the rows' difficulty, by moments, after each candidate's own mean is taken off.

    Source: one-way analysis of variance over rows, Searle, Casella & McCulloch (1992), ch. 3.
    """
    counts = seen.sum(axis=1, keepdims=True)
    sums = np.where(seen, scores, 0.0).sum(axis=1, keepdims=True)
    residuals = np.where(seen, scores - sums / np.maximum(counts, 1), 0.0)
    total, n_scores, n_used = float((residuals**2).sum()), int(seen.sum()), int((counts > 0).sum())
    per_row = seen.sum(axis=0)
    row_sums = residuals.sum(axis=0)
    between = float((row_sums**2 / np.maximum(per_row, 1)).sum())
    n_rows = int((per_row > 0).sum())
    freedom = n_scores - n_rows - n_used + 1
    overall = max(total / max(n_scores - n_used, 1), _LEAST_NOISE)
    if freedom < n_rows:
        # Too few rows were seen by more than one candidate: take half for difficulty.
        return overall / 2, overall / 2
    noise = max((total - between) / freedom, _LEAST_NOISE)
    return noise, max(overall - noise, 0.0)


def _evidence(
    scores: _FloatArray, seen: NDArray[np.bool_], *, noise: float, difficulty: float
) -> tuple[_FloatArray, _FloatArray]:
    """The likelihood's precision matrix and its product with the maximum, the rows' difficulty integrated out."""
    used = seen.astype(np.float64)
    filled = np.where(seen, scores, 0.0)
    # Of each row, the part of its common deviation that is difficulty.
    shared = difficulty / (noise + used.sum(axis=0) * difficulty)
    precision = (np.diag(used.sum(axis=1)) - (used * shared) @ used.T) / noise
    weighted = (filled.sum(axis=1) - used @ (shared * filled.sum(axis=0))) / noise
    return precision, weighted


@lru_cache(maxsize=8)
def _priors(candidates: tuple[Candidate, ...]) -> _FloatArray:
    """Prior covariances of the levels, one for each combination of spreads: shape (n_grid, n, n)."""
    instructions = np.array([c.instruction for c in candidates])
    demo_sets = np.array([c.demo_set for c in candidates])
    same_instruction = (instructions[:, None] == instructions[None, :]).astype(np.float64)
    same_demo_set = (demo_sets[:, None] == demo_sets[None, :]).astype(np.float64)
    output_formats = np.array([c.output_format for c in candidates])
    same_format = (output_formats[:, None] == output_formats[None, :]).astype(np.float64)
    format_spreads = _OUTPUT_FORMAT_SPREADS if output_formats.any() else (0.0,)  # one alone has no effect of its own
    grid = product(_INSTRUCTION_SPREADS, _DEMO_SET_SPREADS, format_spreads, _INTERACTION_SPREADS)
    return np.array(
        [
            _MEAN_SPREAD**2
            + i**2 * same_instruction
            + d**2 * same_demo_set
            + f**2 * same_format
            + x**2 * np.eye(len(candidates))
            for i, d, f, x in grid
        ]
    )


def _positive_part(mean: float, deviation: float) -> float:
    """Expected positive part of a normal variable."""
    z = mean / deviation
    return mean * 0.5 * (1 + erf(z / sqrt(2))) + deviation * exp(-z * z / 2) / sqrt(2 * pi)
