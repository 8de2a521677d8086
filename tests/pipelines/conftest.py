"""What every test of the pipelines leaves behind is closed."""

from collections.abc import Iterator

import pytest

from tests.pipelines import parcels


@pytest.fixture(autouse=True)
def close_caches() -> Iterator[None]:
    """Close the answer caches that a test opened."""
    yield
    while parcels.OPENED:
        parcels.OPENED.pop().close()
