"""Runs the application under uvicorn: the socket, the workers, the logs."""

import contextlib
import os
import socket
import sys
import time
from contextlib import closing

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from rs_gateway.access import public_address_allowed
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.http_protocol import LimitedHttpTools
from rs_gateway.logs import configure_logs
from rs_gateway.settings import CONFIG_VARIABLE, Settings, is_loopback, key_variables, keyless_providers
from rs_gateway.shutdown import GRACE_S
from rs_gateway.unfinished_restore import refuse_half_restored
from rs_gateway.wiring import (
    build_providers,
    open_access_store,
    open_observers,
    open_registry,
    open_trace_store,
)

log = structlog.get_logger()
_KEEP_ALIVE_S = 75
"""Longer than clients and load balancers keep theirs: whoever closes first must not be the one who is asked."""


def serve(settings: Settings, *, workers: int) -> None:
    """Serve until SIGTERM or SIGINT; queued traces are written before it returns.

    Raises:
        ConfigurationError: the address is taken, not ours, or public without protection; or the gateway did not start.
        StoreError, SchemaTooNewError, RegistryError: a store cannot be used.
    """
    configure_logs()
    _allow_many_connections()
    with _bind(settings) as bound:
        _try_stores(settings)
        for name in keyless_providers(settings, os.environ):
            log.warning("provider_without_key", provider=name, set=key_variables(name)[-1])
        _run(settings, bound, workers=workers)


def _run(settings: Settings, bound: socket.socket, *, workers: int) -> None:
    # Worker processes read the configuration for themselves; this is how they find it.
    os.environ[CONFIG_VARIABLE] = str(settings.config_path.absolute())
    config = uvicorn.Config(
        "rs_gateway.app:app_from_environment",
        factory=True,
        loop="uvloop" if sys.platform != "win32" else "auto",
        http=LimitedHttpTools,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=False,
        workers=workers,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    if workers == 1:
        server = uvicorn.Server(config)
        with contextlib.suppress(SystemExit):  # uvicorn's own way to say that it did not start
            server.run(sockets=[bound])
        started = server.started
    else:
        supervisor = Multiprocess(config, sockets=[bound])
        supervisor.run()
        started = all(process.exitcode != STARTUP_FAILURE for process in supervisor.processes)
    if not started:
        raise ConfigurationError("The gateway did not start: the log above says why.")


def _allow_many_connections() -> None:
    """Every stream takes two open files; 1,024, the usual soft limit, would be five hundred streams."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _try_stores(settings: Settings) -> None:
    """Raise here, where it becomes one line, what would otherwise be a worker's traceback."""
    refuse_half_restored(settings.path(settings.data_dir))
    build_providers(settings)
    open_registry(settings).load()
    open_trace_store(settings).close()
    open_access_store(settings).close()
    for observer in open_observers(settings):
        observer.close()


def _has_keys(settings: Settings) -> bool:
    with closing(open_access_store(settings)) as store:
        return public_address_allowed(store, now_s=time.time())


def _bind(settings: Settings) -> socket.socket:
    host, port = settings.gateway.host_and_port
    if not is_loopback(host) and not _has_keys(settings):
        raise ConfigurationError(
            f"gateway.addr {settings.gateway.addr!r} is reachable from other machines, and no client key is active: "
            "make one with `route-switch keys create NAME`, or bind 127.0.0.1."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigurationError(
            f"gateway.addr {settings.gateway.addr} cannot be used: {error.strerror}. "
            "Stop what listens there, or set another one in gateway.addr or RS_GATEWAY__ADDR."
        ) from None
    bound.set_inheritable(True)
    return bound
