"""`python -m tests.conformance.npm`: installs the npm clients into build/, and runs their cases against a gateway.

Exits 0 when every case passed, 1 otherwise. Node 20 or newer and npm must be on the PATH.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.conftest import configuration
from tests.conformance.npm.upstream_report import UpstreamReport
from tests.conformance.scripted_model import speaks
from tests.running import register, running_gateway
from tests.upstream import Upstream

SOURCE = Path(__file__).parent
WORKPLACE = SOURCE.parents[2] / "build/conformance-npm"


def install() -> None:
    """Put the clients into WORKPLACE, unless they are there and the lock file is still the same."""
    WORKPLACE.mkdir(parents=True, exist_ok=True)
    installed, wanted = WORKPLACE / "installed.lock", SOURCE / "package-lock.json"
    for name in ("package.json", "package-lock.json", "run.mjs"):
        shutil.copy(SOURCE / name, WORKPLACE / name)
    if installed.exists() and installed.read_bytes() == wanted.read_bytes():
        return
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=WORKPLACE, check=True)
    shutil.copy(wanted, installed)


def main() -> int:
    """Run all cases; returns the exit status."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("node and npm are needed (Node 20 or newer): install them and try again.", file=sys.stderr)
        return 1
    install()
    with tempfile.TemporaryDirectory() as folder, Upstream([speaks()]).running() as upstream:
        register(Path(folder))
        with running_gateway(Path(folder), configuration(upstream)) as gateway, UpstreamReport(upstream) as report:
            return subprocess.run(
                ["node", "run.mjs", f"{gateway.url}/v1", report.url],
                cwd=WORKPLACE,
                check=False,
                timeout=120,
            ).returncode


if __name__ == "__main__":
    sys.exit(main())
