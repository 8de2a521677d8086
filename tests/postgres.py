"""A throw-away Postgres cluster out of the binaries that the machine has: nothing of it outlives the tests."""

import contextlib
import getpass
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import psycopg

from tests.e2e.processes import free_address
from tests.running import eventually

PASSWORD = "s3cret&/@:?% word"  # everything that a URL has to escape
"""Of the role `guarded`, the only one that is asked for a password."""

_SETTINGS = (
    # The cluster is thrown away, so nothing of it has to survive a power cut; a killed server still loses nothing.
    *("fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=100", "max_prepared_transactions=2"),
    # Its workers' transactions would hold rows back from readers for a moment, at moments of their own choice.
    *("autovacuum=off", "timezone=UTC", "log_min_messages=warning"),
)
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def postgres_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`; the newest where there are several, None where there is none."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]), reverse=True
    )
    on_path = shutil.which("initdb")
    found = [*debian, *([Path(on_path)] if on_path is not None else [])]
    return next((path.parent for path in found if (path.parent / "postgres").exists()), None)


class Cluster:
    """One server: over TCP on loopback and over a socket, the superuser `postgres` with no password."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._folder, self._binaries = folder, binaries
        self._address = free_address()
        self._server: subprocess.Popen[Any] | None = None
        self._numbers = itertools.count(1)
        # Postgres refuses to run as root.
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            user = next(name for name in ("postgres", "nobody") if _exists(name))
            self._as = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
            shutil.chown(folder, user)
        self._initialise()

    @property
    def port(self) -> int:
        return int(self._address.rpartition(":")[2])

    def url(self, database: str = "postgres", *, user: str = "postgres") -> str:
        """The URL of a database, over TCP."""
        return f"postgresql://{user}@{self._address}/{database}"

    def socket_url(self, database: str = "postgres") -> str:
        """The same over the Unix socket."""
        return f"postgresql:///{database}?host={self._folder}&port={self.port}&user=postgres"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"d{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Whoever is connected is thrown out."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, statement: str, *, url: str | None = None) -> list[tuple[Any, ...]]:
        """What a statement by the superuser returns."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def start(self) -> None:
        assert self._server is None
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *(self._binaries / "postgres", "-D", self._folder / "data", "-k", self._folder),
                    *("-h", "127.0.0.1", "-p", str(self.port)),
                    *(part for setting in _SETTINGS for part in ("-c", setting)),
                ],
                cwd="/",
                stdout=log,
                stderr=log,
                start_new_session=True,
                text=False,
                **self._as,
            )
        eventually(lambda: self._server_ended() or self._answers(), timeout_s=120)
        assert not self._server_ended(), (self._folder / "log").read_text()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """`immediate` is a crash: every connection breaks at once, and the next start recovers."""
        if self._server is not None:
            self._server.send_signal(_SIGNALS[mode])
            self._server.wait(60)
            self._server = None

    @contextlib.contextmanager
    def stopped(self, mode: Literal["fast", "immediate"] = "fast") -> Generator[None]:
        """Down for the length of the block."""
        self.stop(mode)
        try:
            yield
        finally:
            self.start()

    def _initialise(self) -> None:
        # Sockets and databases belong to a superuser of this name, whoever runs the tests.
        command = [self._binaries / "initdb", "-D", self._folder / "data", "--no-sync", "--auth=trust"]
        options = ["--username=postgres", "--encoding=UTF8", "--locale=C"]
        subprocess.run([*command, *options], check=True, cwd="/", capture_output=True, **self._as)
        guarded = "host all guarded 127.0.0.1/32 scram-sha-256\n"
        rules = self._folder / "data/pg_hba.conf"
        rules.write_text(guarded + rules.read_text())

    def _server_ended(self) -> bool:
        return self._server is None or self._server.poll() is not None

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            return self.execute("SELECT 1") == [(1,)]
        return False


@contextlib.contextmanager
def running_cluster(binaries: Path) -> Generator[Cluster]:
    """A fresh cluster that is gone with the block."""
    # Not below pytest's own folder, where another user has no way in; and short, since a socket's path must be.
    folder = Path(tempfile.mkdtemp(prefix=f"rs-{getpass.getuser()}-"))
    try:
        cluster = Cluster(folder, binaries)
        cluster.start()
        try:
            cluster.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'")
            yield cluster
        finally:
            cluster.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exists(user: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False
