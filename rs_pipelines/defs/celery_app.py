"""What `celery -A rs_pipelines.defs.celery_app worker` starts: a worker on the broker of the configuration."""

from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_task

from rs_gateway.pipeline_sections import PipelineSettings
from rs_pipelines.defs.celery_settings import celery_arguments
from rs_pipelines.defs.configuration import configured

_settings = configured()
app = make_app(celery_arguments(PipelineSettings() if _settings is None else _settings.pipelines))
execute_plan = create_task(app)
