"""Where the steps of a run are carried out, as section `pipelines` of the configuration says."""

import os

import dagster as dg

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.pipeline_sections import PipelineSettings
from rs_gateway.settings import CONFIG_VARIABLE, DEFAULT_CONFIG, load_settings


def pipeline_settings() -> PipelineSettings:
    """Of the configuration that this process runs on; the defaults where it names none.

    Raises:
        ConfigurationError: $RS_CONFIG names one that cannot be used. Of a file that merely lies here, the runs say so.
    """
    if CONFIG_VARIABLE in os.environ:
        return load_settings().pipelines
    try:
        return load_settings().pipelines if DEFAULT_CONFIG.exists() else PipelineSettings()
    except ConfigurationError:
        return PipelineSettings()


def executor_of(settings: PipelineSettings) -> dg.ExecutorDefinition:
    """What runs steps; nothing of Celery is imported unless it is asked for."""
    match settings.executor:
        case "celery":
            try:
                from rs_pipelines.defs.celery_steps import celery_executor_for
            except ImportError as error:
                raise ConfigurationError(
                    f"pipelines.executor celery cannot be used ({error}): install it with "
                    "`pip install 'route-switch[scale]'`."
                ) from None
            return celery_executor_for(settings)
        case "multiprocess":
            return dg.multiprocess_executor
        case "in_process":
            # A process for every step costs ten seconds a step and gains nothing: the model is the bottleneck.
            return dg.in_process_executor
