"""The configuration that Dagster's processes and Celery's workers run on."""

import os

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.settings import CONFIG_VARIABLE, Settings, load_settings


def configured() -> Settings | None:
    """None where there is none, or where a file that merely lies here cannot be used: the runs then say why.

    Raises:
        ConfigurationError: $RS_CONFIG names one that cannot be used.
    """
    try:
        return load_settings()
    except ConfigurationError:
        if CONFIG_VARIABLE in os.environ:
            raise
        return None
