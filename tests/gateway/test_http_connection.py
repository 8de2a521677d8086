"""The HTTP client towards providers, on real sockets: framings, broken answers, connections that are used again."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trustme
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.adapters.http_address import parse_address
from rs_gateway.adapters.http_connection import BrokenAnswerError, HttpConnection, lines_of
from rs_gateway.adapters.http_pool import HttpPool, tls_context

HEAD = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def pool_to(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncGenerator[HttpPool]:
    """A pool whose provider does `script` on every connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    address = "https://localhost" if tls is not None else "http://127.0.0.1"
    pool = HttpPool(parse_address(f"{address}:{server.sockets[0].getsockname()[1]}"), connect_timeout_s=5)
    try:
        async with asyncio.timeout(20):
            yield pool
    finally:
        pool.close()
        server.close()


def says(*pieces: bytes, then_close: bool = False) -> Script:
    """Answers every request with these bytes, each sent by itself."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if then_close:
                return

    return script


async def asked(pool: HttpPool) -> HttpConnection:
    connection = await pool.connection()
    connection.send(HEAD, b"{}")
    return connection


def run(test: Coroutine[None, None, None]) -> None:
    uvloop.run(test)


BOMB = gzip.compress(bytes(64 * 2**20))
FRAMINGS = {
    "with a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", False),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", False),
    "chunked with a trailer": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n",
        False,
    ),
    "until it closes": (b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhello", True),
    "of HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", True),
    "after an interim answer": (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        False,
    ),
}


@pytest.mark.parametrize(("answer", "closes"), FRAMINGS.values(), ids=FRAMINGS)
@given(cuts=st.lists(st.integers(1, 120), max_size=4))
@settings(max_examples=8)
def test_a_body_is_the_same_however_it_is_framed_and_wherever_it_is_cut(
    answer: bytes, closes: bool, cuts: list[int]
) -> None:
    edges = [0, *sorted({min(cut, len(answer)) for cut in cuts}), len(answer)]
    pieces = [answer[begin:end] for begin, end in pairwise(edges) if begin < end]

    async def test() -> None:
        async with pool_to(says(*pieces, then_close=closes)) as pool:
            for _ in range(2):
                connection = await asked(pool)
                assert await connection.whole() == b"hello"
                assert (connection.status, connection.complete) == (200, True)
                pool.release(connection)
            connection = await asked(pool)
            assert await connection.head() == 200
            read = b""
            while piece := await connection.piece():
                read += piece
            assert read == b"hello"
            pool.release(connection)

    run(test())


def test_a_connection_is_used_again_only_after_an_answer_that_came_to_its_end() -> None:
    async def test() -> None:
        async with pool_to(says(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")) as pool:
            first = await asked(pool)
            await first.whole()
            pool.release(first)
            second = await asked(pool)
            assert second is first
            await second.head()
            third = await asked(pool)  # the first one is busy
            assert third is not second
            await third.whole()
            pool.release(third)
            pool.drop_idle()
            assert await asked(pool) is not third

    run(test())


@pytest.mark.parametrize("ends", [True, False])
def test_a_stream_whose_last_event_has_come_gives_its_connection_back_once_its_body_ends(ends: bool) -> None:
    async def test() -> None:
        told, gone = asyncio.Event(), asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await told.wait()
            if ends:
                writer.write(b"0\r\n\r\n")
            try:
                await reader.readuntil(b"{}")
                writer.write(FRAMINGS["chunked"][0])
            finally:
                gone.set()

        async with pool_to(script) as pool:
            first = await asked(pool)
            assert await first.piece() == b"hello"
            pool.release_soon(first)
            told.set()
            if not ends:
                await gone.wait()  # a quarter of a second later it is given up
                assert not first.reusable
                return
            while (second := await pool.connection()) is not first:
                pool.release(second)
                second.abort()
                await asyncio.sleep(0)
            second.send(HEAD, b"{}")
            assert await second.whole() == b"hello"

    run(test())


CLOSING = {
    "says so": b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
    "sends more than it promised": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n",
    "is cut off while unread": b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
}


@pytest.mark.parametrize("answer", CLOSING.values(), ids=CLOSING)
def test_a_connection_is_not_used_again_when_it(answer: bytes) -> None:
    async def test() -> None:
        async with pool_to(says(answer)) as pool:
            first = await asked(pool)
            await first.head()
            await first.piece()
            pool.release(first)
            assert await asked(pool) is not first

    run(test())


def test_what_comes_after_an_answer_is_never_taken_for_the_next_one() -> None:
    async def test() -> None:
        told, noticed = asyncio.Event(), asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await told.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
            try:
                await reader.read()
            finally:
                noticed.set()

        async with pool_to(script) as pool:
            first = await asked(pool)
            assert await first.whole() == b"ok"
            pool.release(first)
            told.set()
            await noticed.wait()
            assert await pool.connection() is not first

    run(test())


BROKEN = {
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"x-more: " + b"y" * 300_000,
    "a bomb": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n" % (len(BOMB), BOMB),
    "no HTTP": b"\x16\x03\x01\x02",
    "a length that is none": b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
    "broken chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tea\r\n\r\n",
    "packed as nobody asked": b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nxx",
    "packed and damaged": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nxx",
    "packed and cut short": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 20\r\n\r\n"
    + gzip.compress(b"hello" * 9)[:20],
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_cannot_be_read_is_an_error_and_ends_the_connection(answer: bytes) -> None:
    async def test() -> None:
        async with pool_to(says(answer)) as pool:
            connection = await asked(pool)
            with pytest.raises(BrokenAnswerError):
                await connection.whole()
            assert not connection.reusable

    run(test())


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhe"]
)
def test_a_connection_that_closes_before_the_end_of_an_answer_is_an_error(answer: bytes) -> None:
    async def test() -> None:
        async with pool_to(says(answer, then_close=True)) as pool:
            with pytest.raises(ConnectionResetError):
                await (await asked(pool)).whole()

    run(test())


def test_a_packed_answer_is_unpacked() -> None:
    packed = gzip.compress(b"hello" * 1000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)

    async def test() -> None:
        async with pool_to(says(head, packed[:7], packed[7:])) as pool:
            connection = await asked(pool)
            assert await connection.whole() == b"hello" * 1000
            assert connection.reusable

    run(test())


def test_a_refusal_is_noticed_before_its_body_is_there() -> None:
    async def test() -> None:
        async with pool_to(says(b"HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\ncontent-length: 99\r\n\r\n")) as pool:
            connection = await asked(pool)
            assert await connection.whole(unless_refused=True) == b""
            assert (connection.status, connection.header(b"retry-after")) == (429, "7")

    run(test())


def test_a_large_body_stops_when_the_provider_refuses_it_half_way() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(1000)
        writer.write(b"HTTP/1.1 413 Too large\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        await reader.read(2**18)
        await asyncio.sleep(3600)

    async def test() -> None:
        async with pool_to(script) as pool:
            connection = await pool.connection()
            await connection.send_large(b"POST /x HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", bytes(99_999_999))
            assert await connection.head() == 413
            assert not connection.reusable
            pool.release(connection)

    run(test())


def test_a_provider_that_sends_faster_than_anybody_reads_is_slowed_down() -> None:
    total = 64 * 2**20
    written = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        for _ in range(total // 2**18):
            writer.write(bytes(2**18))
            await writer.drain()
            written += 2**18

    async def test() -> None:
        async with pool_to(script) as pool:
            connection = await asked(pool)
            await connection.head()
            seen = -1
            while seen != written:  # until it gets no further
                seen = written
                await asyncio.sleep(0.1)
            assert written < total / 2
            received = 0
            while piece := await connection.piece():
                received += len(piece)
            assert received == total

    run(test())


def test_whoever_waits_can_be_told_to_give_up() -> None:
    async def test() -> None:
        async with pool_to(says(b"")) as pool:
            connection = await asked(pool)
            asyncio.get_running_loop().call_soon(connection.give_up, TimeoutError())
            with pytest.raises(TimeoutError):
                await connection.head()
            assert not connection.reusable

    run(test())


def test_a_provider_over_tls_is_reached_when_its_certificate_is_trusted_and_refused_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def test(trusted: bool) -> None:
        tls_context.cache_clear()
        async with pool_to(says(FRAMINGS["chunked"][0]), tls=context) as pool:
            if not trusted:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await asked(pool)
                return
            for _ in range(2):
                connection = await asked(pool)
                assert await connection.whole() == b"hello"
                pool.release(connection)

    try:
        run(test(trusted=False))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        run(test(trusted=True))
    finally:
        tls_context.cache_clear()


async def _member_by_member(members: list[bytes], cut: int) -> bytes:
    wire = b"".join(members)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(wire)
    async with pool_to(says(head, wire[:cut], wire[cut:])) as pool:
        return await (await asked(pool)).whole()


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), st.data())
@settings(max_examples=30)
def test_a_body_packed_in_several_pieces_is_all_of_them(texts: list[bytes], data: st.DataObject) -> None:
    members = [gzip.compress(text) for text in texts]
    cut = data.draw(st.integers(1, sum(map(len, members)) - 1))
    assert uvloop.run(_member_by_member(members, cut)) == b"".join(texts)


def test_a_status_that_is_none_is_no_answer() -> None:
    async def test() -> None:
        async with pool_to(says(b"HTTP/1.1 000 Nothing\r\ncontent-length: 0\r\n\r\n")) as pool:
            with pytest.raises(BrokenAnswerError):
                await (await asked(pool)).head()

    run(test())


def test_what_comes_before_a_request_is_no_answer_to_it() -> None:
    async def test() -> None:
        async def talks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale")
            await reader.read()

        async with pool_to(talks_first) as pool:
            connection = await pool.connection()
            over = asyncio.Event()
            connection.when_over(over.set)
            if connection.reusable:
                await over.wait()
            connection.send(HEAD, b"{}")
            with pytest.raises(BrokenAnswerError):
                await connection.head()

    run(test())


@pytest.mark.parametrize("value", ["a\r\nx: 1", "a\nb", "a\0b"])
def test_no_header_smuggles_in_another_line(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        lines_of(iter([("x-a", value)]))
