"""Racing: what is believed from few rows, what is looked at next, and what is chosen."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from rs_pipelines.mipro.racing import Look, believed_levels, cheapest, chosen, is_settled, next_look, next_looks
from rs_pipelines.mipro.records import LIVE, Candidate

CANDIDATES = [Candidate(instruction, demo_set) for instruction in range(3) for demo_set in range(4)]
LENGTHS = {candidate: 100 + n for n, candidate in enumerate(CANDIDATES)}
N_ROWS = 60


def _results(
    rates: dict[Candidate, float], *, n_rows: int = N_ROWS, seed: int = 0
) -> dict[Candidate, dict[int, float]]:
    rng = Random(seed)
    return {c: {row: float(rng.random() < rate) for row in range(n_rows)} for c, rate in rates.items()}


def test_the_live_version_is_looked_at_first_and_in_full() -> None:
    assert next_look({}, CANDIDATES, n_rows=N_ROWS, step=4, left=500) == Look(LIVE, N_ROWS)


def test_nothing_is_left_to_look_at_when_every_candidate_has_seen_all_rows() -> None:
    results = _results(dict.fromkeys(CANDIDATES, 0.5))
    assert next_look(results, CANDIDATES, n_rows=N_ROWS, step=4, left=500) is None


@settings(max_examples=20)
@given(seed=st.integers(0, 1_000), step=st.integers(1, 20))
def test_a_look_always_adds_rows_and_never_more_than_there_are(seed: int, step: int) -> None:
    rng = Random(seed)
    results = _results(dict.fromkeys(CANDIDATES, 0.5), seed=seed)
    results = {
        c: dict(list(rows.items())[: N_ROWS if c == LIVE else rng.randrange(N_ROWS)]) for c, rows in results.items()
    }
    look = next_look(results, CANDIDATES, n_rows=N_ROWS, step=step, left=500)
    assert look is not None
    assert len(results[look.candidate]) < look.n_rows <= N_ROWS
    assert look.n_rows - len(results[look.candidate]) <= step


@settings(max_examples=20)
@given(seed=st.integers(0, 1_000), left=st.integers(1, 40), at_once=st.integers(1, 4))
def test_looks_at_once_go_to_different_candidates_and_together_take_no_more_than_is_left(
    seed: int, left: int, at_once: int
) -> None:
    rng = Random(seed)
    results = _results(dict.fromkeys(CANDIDATES, 0.5), seed=seed)
    results = {
        c: dict(list(rows.items())[: N_ROWS if c == LIVE else rng.randrange(N_ROWS)]) for c, rows in results.items()
    }
    looks = next_looks(results, CANDIDATES, n_rows=N_ROWS, step=8, left=left, at_once=at_once)
    assert looks[0] == next_look(results, CANDIDATES, n_rows=N_ROWS, step=8, left=left)
    assert len({look.candidate for look in looks}) == len(looks) <= at_once
    assert sum(look.n_rows - look.seen for look in looks) <= left


def test_the_last_rows_go_to_a_leader_that_could_not_be_chosen_without_them() -> None:
    leader = Candidate(1, 2)
    results = {LIVE: dict.fromkeys(range(N_ROWS), 0.0), leader: dict.fromkeys(range(8), 0.9)}
    left = int(0.3 * N_ROWS)
    assert next_look(results, CANDIDATES, n_rows=N_ROWS, step=4, left=left) == Look(leader, 12, 8)
    assert next_look(results, CANDIDATES, n_rows=N_ROWS, step=4, left=2) == Look(leader, 10, 8)


def test_a_race_is_settled_when_nothing_can_be_better() -> None:
    perfect = Candidate(1, 2)
    results = {LIVE: dict.fromkeys(range(N_ROWS), 0.0), perfect: dict.fromkeys(range(N_ROWS), 1.0)}
    assert is_settled(results, CANDIDATES, n_rows=N_ROWS)
    results[perfect] = dict.fromkeys(range(8), 1.0)
    assert not is_settled(results, CANDIDATES, n_rows=N_ROWS)


def test_a_race_is_settled_when_all_others_are_known_to_be_worse_and_not_before() -> None:
    worse = _results({c: 0.9 if c == LIVE else 0.1 for c in CANDIDATES}, n_rows=200)
    assert is_settled(worse, CANDIDATES, n_rows=200)
    unseen = {c: rows for c, rows in worse.items() if c == LIVE}
    assert not is_settled(unseen, CANDIDATES, n_rows=200)
    assert not is_settled({LIVE: {0: 1.0}}, CANDIDATES, n_rows=200)


@settings(max_examples=20)
@given(seed=st.integers(0, 1_000))
def test_the_cheapest_is_the_shortest_of_those_that_lose_no_more_than_allowed(seed: int) -> None:
    short, worse = Candidate(1, 1), Candidate(2, 2)
    results = _results({LIVE: 0.8, short: 0.8, worse: 0.1}, n_rows=400, seed=seed)
    results[short] = dict(results[LIVE])
    lengths = {**dict.fromkeys(CANDIDATES, 500), LIVE: 300, short: 100, worse: 10}
    assert cheapest(results, CANDIDATES, lengths=lengths, n_rows=400, max_loss=0.05) == short
    lengths[short] = 301
    assert cheapest(results, CANDIDATES, lengths=lengths, n_rows=400, max_loss=0.05) == LIVE


def test_an_output_format_is_believed_to_work_alike_with_other_demos() -> None:
    candidates = [Candidate(i, d, f) for i in range(2) for d in range(3) for f in range(2)]
    seen = [c for c in candidates if c != Candidate(1, 2, 1)]
    levels = believed_levels(_results({c: 0.2 + 0.6 * c.output_format for c in seen}), candidates)
    assert levels.means[candidates.index(Candidate(1, 2, 1))] > 0.6


def test_a_candidate_that_was_never_seen_is_believed_to_be_like_its_instruction_and_its_demo_set() -> None:
    rates = {c: 0.2 + 0.6 * (c.demo_set == 2) for c in CANDIDATES if c != Candidate(2, 2)}
    levels = believed_levels(_results(rates), CANDIDATES)
    unseen, alike, other = (CANDIDATES.index(Candidate(*c)) for c in ((2, 2), (1, 2), (2, 1)))
    assert abs(levels.means[unseen] - levels.means[alike]) < abs(levels.means[unseen] - levels.means[other])


def test_what_was_seen_on_more_rows_is_less_uncertain() -> None:
    results = _results({LIVE: 0.5, Candidate(1, 1): 0.5, Candidate(2, 3): 0.5})
    results[Candidate(2, 3)] = dict(list(results[Candidate(2, 3)].items())[:5])
    variances = believed_levels(results, CANDIDATES).covariance.diagonal()
    assert variances[CANDIDATES.index(Candidate(1, 1))] < variances[CANDIDATES.index(Candidate(2, 3))]


def test_a_candidate_that_is_better_by_far_is_chosen() -> None:
    results = _results({LIVE: 0.3, Candidate(1, 1): 0.35, Candidate(2, 3): 0.9})
    assert chosen(results, CANDIDATES, lengths=LENGTHS, n_rows=N_ROWS) == Candidate(2, 3)


def test_the_live_version_is_kept_when_nothing_is_probably_better() -> None:
    results = _results({LIVE: 0.5})
    for n, candidate in enumerate(CANDIDATES[1:]):
        results[candidate] = dict(results[LIVE])
        results[candidate][n] = 1 - results[candidate][n]
    assert chosen(results, CANDIDATES, lengths=LENGTHS, n_rows=N_ROWS) == LIVE


def test_a_candidate_that_was_hardly_seen_is_not_chosen() -> None:
    results = _results({LIVE: 0.3})
    results[Candidate(1, 1)] = dict.fromkeys(range(5), 1.0)
    assert chosen(results, CANDIDATES, lengths=LENGTHS, n_rows=N_ROWS) == LIVE


def test_of_two_that_are_as_good_the_shorter_prompt_is_chosen() -> None:
    results = _results({LIVE: 0.2, Candidate(1, 1): 0.9})
    results[Candidate(2, 2)] = dict(results[Candidate(1, 1)])
    assert chosen(results, CANDIDATES, lengths=LENGTHS, n_rows=N_ROWS) == Candidate(1, 1)
    longer = LENGTHS | {Candidate(1, 1): 500}
    assert chosen(results, CANDIDATES, lengths=longer, n_rows=N_ROWS) == Candidate(2, 2)


def test_missing_rows_are_neither_right_nor_wrong() -> None:
    results = _results({LIVE: 0.5, Candidate(1, 1): 0.5})
    without = {c: dict(list(rows.items())[10:]) for c, rows in results.items()}
    missing: dict[Candidate, dict[int, float | None]] = {
        c: {row: None if row < 10 else value for row, value in rows.items()} for c, rows in results.items()
    }
    assert (believed_levels(missing, CANDIDATES).means == believed_levels(without, CANDIDATES).means).all()
