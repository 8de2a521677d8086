"""`make docs`: the references from the code, then the site, strictly."""

import argparse
import os
import subprocess
import sys

from docs._site.references import DOCS, write_pages


def main() -> int:
    """Exit status of the build."""
    parser = argparse.ArgumentParser(prog="make docs", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="show the site, and build it anew as you write")
    parser.add_argument("--references", action="store_true", help="only write the references")
    asked = parser.parse_args()
    for path in write_pages():
        print(f"wrote {path.relative_to(DOCS.parent)}", flush=True)
    if asked.references:
        return 0
    command = [sys.executable, "-m", "mkdocs", *(["serve"] if asked.serve else ["build", "--strict"])]
    # A word about the next major version of MkDocs, which the pins keep away.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    try:
        return subprocess.run(command, cwd=DOCS.parent, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 130


sys.exit(main())
