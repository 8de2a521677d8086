"""Run inside DSPy's own environment: one MIPROv2 optimisation with plain messages. JSON on stdin, JSON on stdout."""

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])


def optimise(request: dict[str, Any]) -> dict[str, Any]:
    """The instruction and the demos that MIPROv2 returns; the start itself when it fails."""
    dspy: Any = importlib.import_module("dspy")

    class PlainAdapter(dspy.ChatAdapter):
        """What a gateway sends, for the task: system, demos as turns, the input. Proposers keep the markup."""

        def format(self, signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, str]]:
            if not _is_task(signature):
                return super().format(signature, demos, inputs)
            messages = [{"role": "system", "content": signature.instructions}]
            for demo in demos:
                messages.append({"role": "user", "content": demo["text"]})
                messages.append({"role": "assistant", "content": demo["answer"]})
            return [*messages, {"role": "user", "content": inputs["text"]}]

        def parse(self, signature: Any, completion: str) -> dict[str, Any]:
            return {"answer": completion} if _is_task(signature) else super().parse(signature, completion)

    def example(row: list[str]) -> Any:
        return dspy.Example(text=row[0], answer=row[1]).with_inputs("text")

    score = _scorer(request["evaluator"])

    def metric(wanted: Any, got: Any, trace: Any = None) -> float | bool:
        value = score(got.answer or "", wanted.answer)
        return value if trace is None else value >= 1

    shared = {"api_key": "none", "temperature": 0, "cache": True}
    task = dspy.LM("openai/task", api_base=request["task_url"], **shared, **request["parameters"])
    prompt = dspy.LM("openai/prompt", api_base=request["prompt_url"], api_key="none", max_tokens=400)
    dspy.configure(lm=task, adapter=PlainAdapter())
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    student = dspy.Predict(dspy.Signature("text -> answer", request["instruction"]))
    student.demos = [example(row) for row in request["demos"]]
    optimizer = dspy.MIPROv2(
        metric=metric,
        prompt_model=prompt,
        task_model=task,
        auto=None,
        num_candidates=request["num_candidates"],
        max_bootstrapped_demos=4,
        max_labeled_demos=4,
        num_threads=request["clients"],
        seed=request["seed"],
        max_errors=10_000,
    )
    try:
        best = optimizer.compile(
            student,
            trainset=[example(row) for row in request["train"]],
            valset=[example(row) for row in request["val"]],
            num_trials=request["num_trials"],
            minibatch=True,
            minibatch_size=request["minibatch_size"],
        )
    except Exception as error:  # noqa: BLE001  whatever it raises, its user is left with the start
        return {"instruction": request["instruction"], "demos": request["demos"], "error": repr(error)[:500]}
    demos = [[demo["text"], demo["answer"]] for demo in best.demos]
    return {"instruction": best.signature.instructions, "demos": demos, "error": None}


def _is_task(signature: Any) -> bool:
    return list(signature.input_fields) == ["text"] and list(signature.output_fields) == ["answer"]


def _scorer(evaluator: str) -> Any:
    """The product's own evaluator, as a function of output and expected text."""
    evaluation: Any = importlib.import_module("rs_gateway.domain.evaluation")
    module: Any = importlib.import_module(f"rs_pipelines.evaluators.{evaluator}")
    judge = module.ExactMatch() if evaluator == "exact_match" else module.JsonMatch()

    def score(output: str, expected: str) -> float:
        return judge.score([evaluation.Answer(output, expected)])[0].value

    return score


def main() -> None:
    """Answer one request; what DSPy prints goes to stderr."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answer = optimise(request)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
