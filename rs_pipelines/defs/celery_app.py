"""What `celery -A rs_pipelines.defs.celery_app worker` starts: a worker on the broker of the configuration."""

from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_task

from rs_pipelines.defs.celery_settings import celery_arguments
from rs_pipelines.defs.executors import pipeline_settings

app = make_app(celery_arguments(pipeline_settings()))
execute_plan = create_task(app)
