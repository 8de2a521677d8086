"""Throw-away Postgres clusters and Redis servers from the machine's own binaries, gone when their block ends."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import redis

from tests.e2e.processes import free_address
from tests.running import eventually


def postgres_binaries() -> Path | None:
    """Where `initdb` and `postgres` are; Debian keeps them out of the PATH."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path())]
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


@contextlib.contextmanager
def postgres_server(need: Callable[..., None]) -> Generator[Callable[[str], str]]:
    """A new cluster. Gives a function: name -> address of a new, empty database, `127.0.0.1:PORT/NAME` and its user."""
    binaries = postgres_binaries()
    need("postgres", have=binaries is not None, why="no Postgres is installed (Debian: apt-get install postgresql)")
    assert binaries is not None
    # initdb refuses to run as root; and pytest's folders are closed to others.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="rs-postgres-"))
    if user is not None:
        shutil.chown(folder, user)
    host, _, port = free_address().partition(":")
    options = {"fsync": "off", "listen_addresses": host, "port": port, "unix_socket_directories": "", "timezone": "UTC"}
    try:
        initdb = [
            str(binaries / "initdb"),
            "-D",
            str(folder / "data"),
            "-U",
            "tester",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
        ]
        subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder)
        command = [str(binaries / "postgres"), "-D", str(folder / "data")]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, user=user, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            base = f"tester@{host}:{port}"
            eventually(lambda: server.poll() is not None or _accepts(f"postgresql://{base}/postgres"), timeout_s=30)
            assert server.poll() is None, (folder / "log").read_text()

            def new_database(name: str) -> str:
                with psycopg.connect(f"postgresql://{base}/postgres", autocommit=True) as connection:
                    connection.execute(f'CREATE DATABASE "{name}"'.encode())
                return f"{base}/{name}"

            yield new_database
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def redis_server(need: Callable[..., None]) -> Generator[str]:
    """A new server that keeps nothing; its URL."""
    binary = shutil.which("redis-server")
    need("redis", have=binary is not None, why="no Redis is installed (Debian: apt-get install redis-server)")
    assert binary is not None
    host, _, port = free_address().partition(":")
    command = [binary, "--bind", host, "--port", port, "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="rs-redis-") as folder:
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            url = f"redis://{host}:{port}/0"
            eventually(lambda: server.poll() is not None or _answers_redis(url), timeout_s=20)
            assert server.poll() is None
            yield url
        finally:
            server.kill()
            server.wait()


def _accepts(url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
        return True
    return False


def _answers_redis(url: str) -> bool:
    client = redis.Redis.from_url(url)
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
    finally:
        client.close()
