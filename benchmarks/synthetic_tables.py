"""Made-up score tables to develop a policy on, so that the real ones are only ever used to judge it."""

from math import exp
from random import Random

from benchmarks.score_tables import SCALE, ScoreTable


def synthetic_table(seed: int, *, n_instructions: int = 3, n_demo_sets: int = 6, n_rows: int = 200) -> ScoreTable:
    """One table of a broad family: flat or steep, easy or hard, 0/1 or graded, with or without an empty set that fails.

    A score is drawn from level + difficulty of the row on the logit scale; the level is the sum of an instruction's and
    a demo set's effect and an interaction. The first candidate is an ordinary one, as a live version with demos is.
    """
    rng = Random(f"synthetic:{seed}")
    spread = rng.choice([0.1, 0.3, 0.7])
    instruction_spread, interaction_spread = spread * rng.choice([0.3, 0.8]), spread * rng.choice([0.2, 0.6])
    difficulty_spread = rng.choice([0.7, 1.5, 3.0])
    graded = rng.random() < 0.25
    base = rng.gauss(0, 1.2)
    instructions = [rng.gauss(0, instruction_spread) for _ in range(n_instructions)]
    demo_sets = [rng.gauss(0, spread) for _ in range(n_demo_sets)]
    # The second set stands for no demos at all, the default's is average or a little better.
    demo_sets[0] = rng.gauss(0.3 * spread, 0.5 * spread)
    demo_sets[1] -= rng.choice([0.0, 1.5, 6.0])
    difficulties = [rng.gauss(0, difficulty_spread) for _ in range(n_rows)]
    scores: list[tuple[int, ...]] = []
    for instruction in instructions:
        for demo_set in demo_sets:
            level = base + instruction + demo_set + rng.gauss(0, interaction_spread)
            scores.append(tuple(_score(level + difficulty, graded=graded, rng=rng) for difficulty in difficulties))
    lengths = [100 + 60 * i + 80 * d for i in range(n_instructions) for d in (4, 0, 4, 4, 4, 8)[:n_demo_sets]]
    return ScoreTable(
        task=f"synthetic {seed}",
        model="none",
        evaluator="none",
        instructions=tuple(f"i{n}" for n in range(n_instructions)),
        demo_sets=tuple(f"d{n}" for n in range(n_demo_sets)),
        lengths=tuple(lengths),
        scores=tuple(scores),
    )


def _score(logit: float, *, graded: bool, rng: Random) -> int:
    # Most of the noise between two prompts is on rows that neither finds clear.
    probability = 1 / (1 + exp(-1.5 * logit))
    draws = 4 if graded else 1
    return round(SCALE * sum(rng.random() < probability for _ in range(draws)) / draws)
