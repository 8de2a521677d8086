"""Functions that a configuration might allow as evaluators: good ones and broken ones."""

from typing import Any


def overlap(output: str, expected: str) -> tuple[float, str]:
    wanted = set(expected.split())
    missing = wanted - set(output.split())
    return (1 - len(missing) / len(wanted) if wanted else 0.0), f"{len(missing)} words missing"


def shorter(output: str, expected: str) -> bool:
    return len(output) <= len(expected)


def returns(output: str, expected: str) -> Any:
    """What the output says, as a Python value."""
    del expected
    values: dict[str, Any] = {
        "nan": float("nan"),
        "above": 1.5,
        "huge": 10**400,
        "none": None,
        "text": "0.5",
        "pair": (2, "x"),
        "list": [0.5],
    }
    return values[output]


def divides(output: str, expected: str) -> float:
    return len(expected) / len(output)


async def is_async(output: str, expected: str) -> float:
    return float(output == expected)


constant = 0.5
