"""Which ports are free for a child process."""

import socket

import pytest

from rs_pipelines.processes import ProcessFailedError, free_port, refuse_taken


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_port_where_somebody_listens_is_not_free(host: str) -> None:
    with socket.create_server((host, 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
        with pytest.raises(ProcessFailedError, match=f"127.0.0.1:{port} is taken"):
            refuse_taken("127.0.0.1", port, what="gateway.addr")


def test_a_port_where_nobody_listens_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert free_port(port) == port
    refuse_taken("127.0.0.1", port, what="gateway.addr")


def test_a_listener_that_shares_all_addresses_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # BSD and macOS let a second socket bind 127.0.0.1 beside it; SO_REUSEPORT does the same here.
    original = socket.socket.bind

    def bind(self: socket.socket, address: tuple[str, int]) -> None:
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        original(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
