"""A throw-away Redis server out of the machine's own binary, gone when its block ends."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator

import redis

from tests.e2e.processes import free_address
from tests.running import eventually


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
            eventually(lambda: server.poll() is not None or _answers_redis(url), timeout_s=60)
            assert server.poll() is None
            yield url
        finally:
            server.kill()
            server.wait()


def _answers_redis(url: str) -> bool:
    client = redis.Redis.from_url(url)
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
    finally:
        client.close()
