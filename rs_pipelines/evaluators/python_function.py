"""Python: an evaluator of the operator's own, named `module:function`, from a module that the configuration allows."""

import hashlib
import importlib
import inspect
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Annotated

import msgspec

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import Answer, EvaluatorFailedError, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonOptions:
    """Which function, and from which value on an answer passes."""

    python: str
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0


class PythonFunction:
    """What `function(output, expected)` returns: a number in [0, 1] or a bool, or a pair of that and an explanation."""

    def __init__(self, options: PythonOptions, *, allowed: Collection[str]) -> None:
        """
        Args:
            allowed: modules that may be loaded; nothing else is imported.

        Raises:
            ConfigurationError: the name is no `module:function`, the module is not allowed or cannot be imported, or it
                has no such function.
        """
        self._reference, self._threshold = options.python, options.threshold
        self._function, source = _load(options.python, allowed=allowed)
        # The code decides the scores: a changed file is another evaluator, and its studies are others.
        self._name = f"python/1 ({options.python}{f', {source}' if source else ''})"

    @property
    def name(self) -> str:
        """Name and version, the function, and a hash of its module's file."""
        return self._name

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """What the function returns. Raises EvaluatorFailedError naming the row when it raises or returns no score."""
        return [self._score(answer, row=answer.example_id or str(n)) for n, answer in enumerate(answers, 1)]

    def _score(self, answer: Answer, *, row: str) -> Score:
        try:
            returned = self._function(answer.output, answer.expected)
        except Exception as error:
            raise EvaluatorFailedError(
                f"Python evaluator {self._reference!r} failed on row {row}: {type(error).__name__}: {error}."
            ) from error
        value, explanation = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, "")
        number = _share(value)
        if number is None:
            raise EvaluatorFailedError(
                f"Python evaluator {self._reference!r} returned {_shown(returned)} for row {row}: it must return a "
                "number from 0 to 1 or a bool, or a pair of that and an explanation."
            )
        return Score(number, number >= self._threshold, str(explanation)[:500], self._name)


def _load(reference: str, *, allowed: Collection[str]) -> tuple[Callable[[str, str], object], str]:
    """The function, and a short hash of its module's file; empty where there is no file."""
    module_name, _, function_name = reference.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or not function_name.isidentifier():
        raise ConfigurationError(f"Python evaluator {reference!r} is not of the form `module:function`.")
    if module_name not in allowed:
        raise ConfigurationError(
            f"Python evaluator {reference!r}: module {module_name!r} is not among `evaluation.python_modules` "
            f"({', '.join(sorted(allowed)) or 'none'}). Add it there if its code may run here."
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigurationError(
            f"Python evaluator {reference!r}: module {module_name!r} cannot be imported ({type(error).__name__}: "
            f"{error}). It must be installed, or lie on PYTHONPATH."
        ) from error
    function: object = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigurationError(f"Python evaluator {reference!r}: {module_name} has no function {function_name!r}.")
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"Python evaluator {reference!r} is async: it must be a plain function.")
    path = Path(module.__file__) if module.__file__ is not None else None
    source = hashlib.sha256(path.read_bytes()).hexdigest()[:8] if path is not None and path.is_file() else ""
    return function, source


def _share(value: object) -> float | None:
    """A number in [0, 1] as a float; None for anything else."""
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        return None
    return number if 0 <= number <= 1 else None


def _shown(value: object) -> str:
    try:
        return repr(value)[:100]
    except Exception:  # noqa: BLE001 - the operator's type may raise anything
        return f"a {type(value).__name__}"
