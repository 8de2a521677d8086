"""Which documents the tests follow, and what they leave out."""

from dataclasses import dataclass
from pathlib import Path

from tests.documents.reader import ROOT, Reader
from tests.documents.scripted_provider import scripted
from tests.pipelines.packaged import original_package
from tests.upstream import Upstream


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A command that a document shows and the reader does not run."""

    document: str
    command: str
    reason: str


BEGINNINGS = ("README.md", "docs/quick-start.md")
MIGRATIONS = tuple(sorted(f"docs/migrate/{path.name}" for path in ROOT.glob("docs/migrate/*.md")))
SUPPORT_DESK = "tests/documents/support_desk.md"
"""The gateway that some guides take for granted."""
GUIDES = (
    (
        "docs/guides/own-template.md",
        "docs/guides/labels-and-feedback.md",
        "docs/guides/optimize-and-publish.md",
        "docs/guides/packages.md",
        "docs/guides/lake.md",
        "docs/operations.md",
    ),
    ("docs/guides/evaluators.md",),
    (SUPPORT_DESK, "docs/guides/client-keys.md", "docs/guides/admin-api.md", "docs/guides/observability.md"),
    (
        SUPPORT_DESK,
        "docs/guides/privacy.md",
        "docs/guides/routing.md",
        "docs/guides/operate.md",
        "docs/guides/command-line.md",
    ),
)
"""They begin where `route-switch` is on the path and a key is set; of several, one goes on where the other ended."""
NOT_FOLLOWED = {
    "docs/architecture.md": "it has nothing to type",
    "docs/index.md": "it has nothing to type",
    "docs/optimizer.md": "its benchmarks take minutes; tests/test_optimizer_benchmark.py runs them small",
    "docs/scaling.md": "tests/e2e/test_celery_workers.py and tests/test_deploy.py have the servers and workers",
    "docs/guides/dagster.md": "tests/e2e/test_dagster_ui.py clicks, tests/pipelines/test_dagster_guide.py reads",
    "docs/guides/many-models.md": "its one command takes minutes; tests/pipelines/test_best_model.py runs it",
    "docs/guides/performance.md": "its benchmark takes minutes",
    "docs/guides/providers.md": "its one command writes new prices into the package",
    "docs/guides/several-gateways.md": "tests/e2e/test_several_gateways.py has the servers",
}
"""Page -> why the tests do not follow it."""
SET_UP = "`.ci/run` runs it in a folder of its own"
INSTALLED = "the tests' own environment has every extra"
NOT_RUN = (
    LeftOut("README.md", "python3.11 -m venv .venv", SET_UP),
    LeftOut("README.md", ".venv/bin/pip install -c constraints.txt '.[pipelines]'", SET_UP),
    LeftOut("README.md", "make demo", "tests/e2e/test_demo_process.py runs the demo"),
    LeftOut("README.md", "make test", "`.ci/run` runs it, these tests included"),
    LeftOut("docs/quick-start.md", "python3.11 -m venv .venv", SET_UP),
    LeftOut("docs/quick-start.md", ".venv/bin/pip install -c constraints.txt '.[pipelines,local]'", SET_UP),
    LeftOut(
        "docs/quick-start.md", "route-switch model serve", "the scripted provider does; test_local_model.py runs it"
    ),
    LeftOut("docs/guides/optimize-and-publish.md", "route-switch up", "tests/e2e/test_up.py runs it"),
    LeftOut(
        "docs/guides/optimize-and-publish.md",
        'DAGSTER_HOME="$PWD/data/dagster" RS_CONFIG="$PWD/route-switch.yaml" dagster dev -w workspace.yaml',
        "tests/e2e/test_dagster_ui.py does",
    ),
    LeftOut("docs/guides/lake.md", "python benchmarks/ingest.py --json", "it takes minutes"),
    LeftOut("docs/guides/operate.md", "make up", "tests/e2e/test_up.py runs what it starts"),
    LeftOut("docs/guides/operate.md", "route-switch serve --workers 2", "README.md has it run"),
    LeftOut("docs/guides/observability.md", ".venv/bin/pip install -c constraints.txt '.[telemetry]'", INSTALLED),
)


def follow(*documents: str, folder: Path, first: str = "") -> None:
    """Do all that they say, one after the other.

    Raises:
        AssertionError: something cannot be done, does not say what is shown, or is left out for no reason.
    """
    # What the page on migrating from the Go system has its reader bring along.
    original_package(folder / "exported/billing", manifest={"id": "billing"}, package={"template_id": "billing"})
    not_run = frozenset(one.command for one in NOT_RUN if one.document in documents)
    with Upstream([scripted]).running() as upstream:
        reader = Reader(folder, upstream.base_url, not_run)
        reader.read(*(ROOT / document for document in documents), first=first)
    assert reader.left_out == not_run, "NOT_RUN names a command that is not there"
