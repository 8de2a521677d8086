"""Clients that hang up: each asks for a slow stream, reads the first of it, and is gone. Runs until it is ended.

python -m benchmarks.aborter PORT PATH BODY_FILE PAUSE_S [HEADER ...]
"""

import socket
import sys
import time
from pathlib import Path


def main() -> None:
    """Start a stream, hang up in the middle, pause, and again."""
    port, path, body_file, pause_s, *headers = sys.argv[1:]
    body = Path(body_file).read_bytes()
    head = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", *headers]
    request = "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body
    while True:
        try:
            with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as client:
                client.sendall(request)
                client.recv(4096)
        except OSError as error:
            print(error, flush=True)
        time.sleep(float(pause_s))


if __name__ == "__main__":
    main()
