"""What following a document takes."""

import shutil
from collections.abc import Callable

import pytest


@pytest.fixture
def have_curl(need: Callable[..., None]) -> None:
    """Documents call the gateway with it."""
    need("curl", have=shutil.which("curl") is not None, why="it is not installed")
