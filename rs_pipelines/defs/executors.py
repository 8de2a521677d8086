"""Where the steps of a run are carried out, as section `pipelines` of the configuration says."""

import os

import dagster as dg

from rs_gateway.setting_sections import PipelineSettings
from rs_gateway.settings import CONFIG_VARIABLE, DEFAULT_CONFIG, load_settings


def pipeline_settings() -> PipelineSettings:
    """Of the configuration that this process runs on; the defaults where it names none. Raises ConfigurationError."""
    if CONFIG_VARIABLE not in os.environ and not DEFAULT_CONFIG.exists():
        return PipelineSettings()
    return load_settings().pipelines


def executor_of(settings: PipelineSettings) -> dg.ExecutorDefinition:
    """What runs steps; nothing of Celery is imported unless it is asked for."""
    match settings.executor:
        case "celery":
            from rs_pipelines.defs.celery_steps import celery_executor_for

            return celery_executor_for(settings)
        case "multiprocess":
            return dg.multiprocess_executor
        case "in_process":
            # A process for every step costs ten seconds a step and gains nothing: the model is the bottleneck.
            return dg.in_process_executor
