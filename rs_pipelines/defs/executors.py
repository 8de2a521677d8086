"""Where the steps of a run are carried out, as section `pipelines` of the configuration says."""

import dagster as dg

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.pipeline_sections import PipelineSettings


def executor_of(settings: PipelineSettings) -> dg.ExecutorDefinition:
    """What runs steps; nothing of Celery is imported unless it is asked for.

    Raises:
        ConfigurationError: Celery is asked for and not installed.
    """
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
