"""A small HTTP server that tells the npm cases what the upstream saw."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from tests.upstream import Upstream


class UpstreamReport:
    """While the context lasts, GET `url` answers `{"requests", "hang_ups", "request"}`; `request` is the last one."""

    def __init__(self, upstream: Upstream) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen = {
                    "requests": len(upstream.requests),
                    "hang_ups": upstream.hang_ups,
                    "request": upstream.requests[-1] if upstream.requests else None,
                }
                body = json.dumps(seen).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: the cases have the floor."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> "UpstreamReport":
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
