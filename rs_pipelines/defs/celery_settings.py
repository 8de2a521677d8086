"""One set of Celery settings for those who hand out steps and for those who carry them out."""

from typing import Any

from dagster_celery.config import DEFAULT_CONFIG, dict_wrapper

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.pipeline_sections import PipelineSettings


def celery_arguments(settings: PipelineSettings) -> dict[str, Any]:
    """What `dagster_celery.make_app` takes. Raises ConfigurationError where no broker is configured."""
    if settings.broker is None:
        raise ConfigurationError("pipelines.broker is not set: write one, such as redis://127.0.0.1:6379/0.")
    broker = settings.broker.get_secret_value()
    own = {
        # Says which worker has begun a step: it is asked whether it still knows of it.
        "task_track_started": True,
        # A step waits in the broker until somebody is free, never behind a long one at a worker that may die.
        "worker_disable_prefetch": True,
        "broker_connection_retry_on_startup": True,
        "worker_hijack_root_logger": False,
    }
    return {
        "broker": broker,
        "backend": broker,
        "include": [],
        "config_source": dict_wrapper({**DEFAULT_CONFIG, **own}),
    }
