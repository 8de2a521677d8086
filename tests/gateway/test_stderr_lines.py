"""Lines on stderr when nothing more can be written there, and afterwards."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.small_disks import fill, small_disk

PROGRAM = """
import os, sys
from rs_gateway.stderr_lines import print_line, write_lines

def refused():
    try:
        write_lines(b'{"lost": "' + b"x" * 9_000 + b'"}' + b"\\n")
    except OSError:
        return True

assert refused() and refused()
print_line("x" * 9_000)
os.unlink(sys.argv[1])
print_line('{"event": "a"}')
write_lines(b'{"event": "b"}' + b"\\n")
"""


def test_a_full_disk_ends_no_program_and_spoils_no_later_line(tmp_path: Path, need: Callable[..., None]) -> None:
    with small_disk(tmp_path, size_kb=64) as disk:
        need("full_disk", have=disk is not None, why="a small file system cannot be mounted here")
        assert disk is not None
        log = disk / "log"
        log.write_text("before\n")
        ballast = fill(disk)
        with log.open("ab") as stderr:
            ended = subprocess.run([sys.executable, "-c", PROGRAM, str(ballast)], stderr=stderr, env=dict(os.environ))
        lines = log.read_text().splitlines()
    assert ended.returncode == 0, lines[-5:]
    assert lines[0] == "before"
    assert [line for line in lines if line.startswith('{"event"')] == ['{"event": "a"}', '{"event": "b"}']
