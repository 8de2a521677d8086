"""A project in which every command of `route-switch` finds something to do, with a model that answers."""

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rs_pipelines.workbench import Workbench
from tests import upstream as wire
from tests.pipelines.packaged import export, full_bench
from tests.pipelines.tiny_upstream import tiny
from tests.upstream import Exchange, Upstream

TRACE = f"{18:026}"
"""A request of the template `parcels` that the project has stored."""
KEY_NAME = "shop"
_COMBINATIONS = [
    {"id": "parcels-tiny", "template_id": "parcels", "model": "tiny", "provider": "scripted"},
    {"id": "parcels-large", "template_id": "parcels", "model": "large", "provider": "scripted", "enabled": False},
    {"id": "other-tiny", "template_id": "other", "model": "tiny", "provider": "scripted"},
]


async def _answers(exchange: Exchange) -> None:
    """The probe of `check --live` is a single message; everything else is about parcels."""
    if len(exchange.body["messages"]) == 1:
        await wire.answers("ok")(exchange)
    else:
        await tiny(exchange)


@contextmanager
def project(folder: Path) -> Generator[Path]:
    """The folder of the project; its model answers for the length of the block.

    Beside it lie files for commands to read: a template, feedback, labelled rows, and a package of `parcels`.
    """
    here = folder / "project"
    with Upstream([_answers]).running() as upstream:
        bench = full_bench(
            here,
            rows={"train": 40, "val": 60, "test": 80},
            model_providers={"scripted": {"base_url": upstream.base_url, "models": ["tiny"]}},
            gateway={"combinations": _COMBINATIONS},
            mipro_v2={"minibatch_size": 20, "num_trials": 3, "minibatch_full_eval_steps": 3},
        )
        _write_inputs(folder, bench)
        yield here


def copy_of(original: Path, folder: Path) -> Path:
    """The same project and its files again, for a test to change."""
    shutil.copytree(original.parent, folder, dirs_exist_ok=True)
    return folder / original.name


def _write_inputs(folder: Path, bench: Workbench) -> None:
    (folder / "template.yaml").write_text("id: greeting\ninstruction: Say {word}.\n")
    (folder / "version.yaml").write_text("instruction: Find it.\nuser: '{message}'\n")
    (folder / "prompt.txt").write_text("Say {word}.")
    feedback = {"trace_id": TRACE, "kind": "label", "value": "AB-1234"}
    (folder / "feedback.jsonl").write_text(json.dumps(feedback) + "\n")
    row = {"variables": {"message": "a parcel that nobody has sent"}, "expected": "none"}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    export(bench, folder / "parcels.tar.zst")
