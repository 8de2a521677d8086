"""Live runs: what is to be run, what came out, and the file that keeps finished runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.processes import BenchmarkError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One task on one model.

    Attributes:
        rows: a JSONL file of your own: id, split, variables (one), expected.
        instruction: the plain instruction to start from; four random train rows become its demos.
        model: the model's name, for the report.
        base_url: an OpenAI-compatible server of the model; `prompt_base_url` of the one that proposes instructions.
        max_tokens, stop: of the task's calls.
        n_train, n_val, n_test: rows taken from each split.
    """

    rows: Path
    instruction: str
    model: str
    base_url: str
    prompt_base_url: str | None = None
    evaluator: str = "exact_match"
    max_tokens: int = 16
    stop: tuple[str, ...] = ("\n",)
    n_train: int = 50
    n_val: int = 50
    n_test: int = 150

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What is sent with every call of the task."""
        return {"max_tokens": self.max_tokens, "stop": list(self.stop)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRun:
    """Both optimisers once, from the same default on the same rows.

    Attributes:
        default, ours, dspy: mean test scores of the start and of both results.
        difference_se: standard error of ours minus dspy, paired by test rows.
        calls_ours, calls_dspy: task-model calls that reached the proxy, the test's not among them.
        prompt_calls_ours, prompt_calls_dspy: calls of the model that proposes instructions.
        tokens_ours, tokens_dspy: of the task-model calls, prompt and answer.
    """

    task: str
    model: str
    seed: int
    default: float
    ours: float
    dspy: float
    difference_se: float
    calls_ours: int
    calls_dspy: int
    prompt_calls_ours: int
    prompt_calls_dspy: int
    tokens_ours: int
    tokens_dspy: int
    seconds_ours: float
    seconds_dspy: float


def load_pairs(path: Path) -> list[Pair]:
    """The pairs of a YAML file (`pairs: [...]`). Raises BenchmarkError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
        return msgspec.convert(content["pairs"], list[Pair], dec_hook=_path)
    except (yaml.YAMLError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise BenchmarkError(f"{path}: {error}. It needs `pairs:`, a list of tasks on models.") from error


def load_runs(path: Path) -> list[LiveRun]:
    """The runs that are finished; none when there is no file. A half-written last line is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [msgspec.json.decode(line, type=LiveRun) for line in lines if line.endswith(b"\n")]


def add_run(run: LiveRun, path: Path) -> None:
    """Append a finished run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(run) + b"\n")


def _path(kind: type, value: Any) -> Any:
    return kind(value) if issubclass(kind, Path) else value
