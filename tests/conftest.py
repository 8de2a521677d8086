"""For every test: no network beyond loopback, no settings of the developer's own, and skips that CI may forbid."""

import logging
import os
import socket
from collections.abc import Callable, Generator
from typing import Any

import hypothesis
import pytest
import structlog

from tests.postgres import Cluster, postgres_binaries, running_cluster

_connect = socket.socket.connect


def _connect_to_loopback_only(self: socket.socket, address: Any) -> None:
    host = address[0] if isinstance(address, tuple) else ""
    if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"a test tried to reach {address!r}: only loopback is allowed")
    _connect(self, address)


def pytest_configure() -> None:
    """Slow neighbours fail no property test: benchmarks time, tests do not. And chance fails none in CI, which promises
    what must run: there every run draws the same examples, and elsewhere new ones.

    structlog's own default draws the variables of every frame of a traceback, which takes ten seconds of a CPU.
    """
    hypothesis.settings.register_profile(
        "untimed",
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        derandomize="ROUTE_SWITCH_TESTS_MUST_RUN" in os.environ,
    )
    hypothesis.settings.load_profile("untimed")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _connect_to_loopback_only)
    for name in list(os.environ):
        if name.startswith(("RS_", "ROUTE_SWITCH_", "PG")) or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def logs_of_this_test(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """A command that runs in this process sets its logs up: only for its test, and no logger keeps what was set."""
    configure, before = structlog.configure, structlog.get_config()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def not_for_ever(**settings: Any) -> None:
        settings["cache_logger_on_first_use"] = False
        configure(**settings)

    monkeypatch.setattr(structlog, "configure", not_for_ever)
    yield
    configure(**before)
    for added in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(added)
    root.setLevel(level)


_MUST_RUN = os.environ.get("ROUTE_SWITCH_TESTS_MUST_RUN", "").split(",")


@pytest.fixture
def need() -> Callable[..., None]:
    """`need("browser", have=..., why=...)` skips by name, or fails where CI promised that it is there."""

    def check(name: str, *, have: bool, why: str) -> None:
        if have:
            return
        if name in _MUST_RUN:
            pytest.fail(f"{name} must run here, but {why}")
        pytest.skip(f"{name}: {why}")

    return check


@pytest.fixture(scope="session")
def shared_cluster() -> Generator[Cluster | None]:
    """One Postgres server for all tests of a process; None where it is not installed."""
    binaries = postgres_binaries()
    if binaries is None:
        yield None
        return
    with running_cluster(binaries) as cluster:
        yield cluster


@pytest.fixture
def postgres(shared_cluster: Cluster | None, need: Callable[..., None]) -> Cluster:
    """A running Postgres server. Whoever stops it starts it again."""
    need("postgres", have=shared_cluster is not None, why="Postgres' `initdb` and `postgres` are not installed")
    assert shared_cluster is not None
    return shared_cluster


@pytest.fixture
def database(postgres: Cluster) -> Generator[str]:
    """The URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)
