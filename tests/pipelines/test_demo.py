"""What the demo says about its answers comes from the answers."""

import pytest

from rs_pipelines.demo import DemoFailedError, Row, Served, served_version


def answers(*versions: int) -> list[Served]:
    row = Row({"message": "Where is it?"}, "unknown")
    return [Served(row, "unknown", f"trace-{n}", version, 11, 3) for n, version in enumerate(versions)]


def test_the_served_version_is_the_one_that_every_answer_names() -> None:
    assert served_version(answers(7, 7, 7)) == 7


@pytest.mark.parametrize("versions", [(1, 2, 2), ()])
def test_without_one_version_that_every_answer_names_the_demo_has_failed(versions: tuple[int, ...]) -> None:
    with pytest.raises(DemoFailedError, match="One version should have answered"):
        served_version(answers(*versions))
