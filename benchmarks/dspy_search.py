"""Run inside DSPy's own environment: the real MIPROv2 search over a score table. JSON on stdin, JSON on stdout.

The program asks no model: it answers a row with the score that the table holds for its own instruction and demos. All
else (sampler, minibatches, evaluation, choice) is DSPy's code.
"""

import importlib
import json
import logging
import sys
from random import Random
from typing import Any


def search(request: dict[str, Any], seed: int, rows: list[int]) -> dict[str, Any]:
    """One search; returns the choice and how often rows were scored."""
    dspy: Any = importlib.import_module("dspy")
    n_demo_sets, scores = request["n_demo_sets"], request["scores"]
    asked: list[tuple[int, int]] = []

    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict: Any = dspy.Predict(dspy.Signature("row -> answer", "0"))

        def forward(self, row: int) -> Any:
            demos = self.predict.demos
            candidate = int(self.predict.signature.instructions) * n_demo_sets + int(demos[0]["demo_set"])
            asked.append((candidate, row))
            return dspy.Prediction(answer=scores[candidate][rows[row]] / 1000)

    def metric(_example: Any, prediction: Any, _trace: Any = None) -> float:
        return prediction.answer

    program = Program()
    demo_sets = [[dspy.Example(demo_set=n)] for n in range(n_demo_sets)]
    program.predict.demos = demo_sets[0]
    lm = dspy.LM("openai/never-asked", api_key="none")
    optimizer = dspy.MIPROv2(
        metric=metric, auto=None, num_candidates=n_demo_sets, seed=seed, prompt_model=lm, task_model=lm
    )
    optimizer.rng = Random(seed)
    valset = [dspy.Example(row=n).with_inputs("row") for n in range(len(rows))]
    evaluate = dspy.Evaluate(devset=valset, metric=metric, num_threads=1, display_progress=False, max_errors=1)
    best = optimizer._optimize_prompt_parameters(
        program,
        {0: [str(n) for n in range(len(scores) // n_demo_sets)]},
        {0: demo_sets},
        evaluate,
        valset,
        request["num_trials"],
        True,
        request["minibatch_size"],
        request["full_eval_steps"],
        seed,
    )
    choice = [int(best.predict.signature.instructions), int(best.predict.demos[0]["demo_set"])]
    return {"seed": seed, "choice": choice, "evaluations": len(asked), "calls": len(set(asked))}


def main() -> None:
    """Answer one request."""
    logging.disable(logging.WARNING)
    request = json.load(sys.stdin)
    json.dump([search(request, seed, rows) for seed, rows in request["searches"]], sys.stdout)


if __name__ == "__main__":
    main()
