"""What `make clean` removes, and what it must never touch."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILT = (
    ".venv/bin/python",
    ".cache/benchmarks/peer",
    ".pytest_cache/v",
    "benchmarks/__pycache__/load.pyc",
    "docs/_site/__pycache__/command_line.pyc",
    "site/index.html",
    "rs_gateway/api/__pycache__/chat.pyc",
    "tests/e2e/__pycache__/test_up.pyc",
)
KEPT = ("data/traces.db", "data/prompts/orders/template.yaml", "route-switch.yaml", "rs_pipelines/cli.py")


def test_make_clean_removes_what_was_built_and_nothing_that_a_user_made(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*BUILT, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"Makefile", *KEPT}
    assert not list(tmp_path.rglob("__pycache__"))
    assert not (tmp_path / ".cache").exists()
