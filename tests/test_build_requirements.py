"""What builds the package is as exact as what runs it."""

import tomllib
from pathlib import Path


def test_whatever_builds_the_package_is_pinned_exactly() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    requires = project["build-system"]["requires"]
    assert [line for line in requires if "==" not in line] == [], "constraints.txt does not reach the build"
