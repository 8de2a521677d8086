"""Two recorded weeks, made once for all tests that only look at them."""

import pytest

from rs_pipelines.workbench import Workbench
from tests.pipelines.recorded_weeks import make_data_directory


@pytest.fixture(scope="session")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """Traffic, lake, study and publication of two weeks; not to be changed."""
    return make_data_directory(tmp_path_factory.mktemp("weeks"))
