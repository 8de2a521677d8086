"""Where the live figures lie that packages take along."""

from pathlib import Path

from rs_gateway.adapters.sqlite_traces import sqlite_path
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.settings import Settings
from rs_gateway.store_urls import is_postgres


def figures_store(settings: Settings) -> Path:
    """The file of the trace store. Raises ConfigurationError: it is none."""
    if is_postgres(settings.traces_url):
        raise ConfigurationError(
            "Live figures are taken along only between SQLite trace stores, and stores.traces is a Postgres database: "
            "leave out --include-analytics or --restore-analytics."
        )
    return settings.path(sqlite_path(settings.traces_url))
