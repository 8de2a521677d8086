"""A workbench with everything that a package takes along, and an empty one that it is brought to."""

import asyncio
import io
import json
import sqlite3
import tarfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
import zstandard

from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.prompts import Demo, Origin, PromptTemplate, PromptText
from rs_gateway.domain.publication import Action, Change
from rs_pipelines.comparison import Comparison, sealed
from rs_pipelines.gate import ComparedRow, GatePolicy, judge
from rs_pipelines.packages.export import ExportOptions, export_package
from rs_pipelines.packages.format import PackageFacts
from rs_pipelines.workbench import Workbench
from tests.pipelines.parcels import LIVE, ORIGIN, TARGET
from tests.pipelines.tiny_upstream import TEMPLATE, import_parcels
from tests.running import write_configuration
from tests.trace_files import a_trace, opened

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
BETTER = PromptText(
    "Find the parcel number. Two letters, four digits.", "{message}", (Demo("AB-1234 lost", "AB-1234"),)
)
EVERYTHING = ExportOptions(logs_limit=50, include_analytics=True, git=True)


def bench_in(folder: Path, **sections: Any) -> Workbench:
    """An empty workbench."""
    folder.mkdir(parents=True, exist_ok=True)
    combination = {"id": "parcels-tiny", "template_id": "parcels", "model": "tiny", "provider": "scripted"}
    configuration = {
        "model_providers": {"scripted": {"base_url": "http://127.0.0.1:9/v1"}},
        "gateway": {"combinations": [combination]},
        **sections,
    }
    return Workbench.at(write_configuration(folder, configuration))


FEW_ROWS: Mapping[str, int] = {"train": 4, "val": 3, "test": 5}


def full_bench(folder: Path, *, rows: Mapping[str, int] = FEW_ROWS, **sections: Any) -> Workbench:
    """Three versions, two of them live in turn, with a comparison; labelled rows; traces of two templates; figures."""
    bench = bench_in(folder, **sections)
    registry = bench.registry
    registry.register(TEMPLATE, LIVE, origin=ORIGIN)
    proof = comparison()
    study = Origin("study", "gate", "2026-05-01T00:00:00+00:00", study_id="s1", comparison_id=proof.comparison_id)
    registry.add_version("parcels", BETTER, model="tiny", origin=study)
    change = Change(Action.PUBLISH, 2, "tiny", "gate", study.at, "proven", 1, proof.comparison_id)
    registry.make_live("parcels", change)
    registry.add_version("parcels", PromptText("A draft.", "{message}"), model=None, origin=replace(ORIGIN, note="why"))
    registry.register(PromptTemplate("other", "Other", (), {}), PromptText("Other."), origin=ORIGIN)
    bench.studies.save_comparison(proof)
    import_parcels(folder, bench, **rows)
    now_s = time.time()  # figures of minutes and hours long ago expire
    with opened(bench.data / "traces.db") as store:
        for number in range(20):
            trace = a_trace(f"{number:026}", content=f"parcel {number} of bob@example.com")
            store.append(
                replace(trace, template_id=("parcels", "other")[number % 2], version=1, key_id="k1", started_at=now_s)
            )
    with opened(bench.data / "traces.db") as store:
        said = Feedback("f1", f"{18:026}", FeedbackKind.COMMENT, "thanks, bob@example.com", "human:bob", 2.0)
        asyncio.run(store.add_feedback(said))
    return bench


def comparison() -> Comparison:
    rows = tuple(ComparedRow(str(n), "bob@example.com", 0.0, 1.0, "", "bob@example.com", 10, 20) for n in range(40))
    policy = GatePolicy()
    found = Comparison(
        comparison_id="",
        target=TARGET,
        study_id="s1",
        sample_id="c1",
        live_version=1,
        live_hash=LIVE.content_hash,
        candidate_hash=BETTER.content_hash,
        policy=policy,
        seed=0,
        verdict=judge(rows, live=LIVE, candidate=BETTER, policy=policy, seed=0),
        by_label=(),
        rows=rows,
    )
    return sealed(found)


def export(bench: Workbench, place: Path, options: ExportOptions = EVERYTHING) -> PackageFacts:
    return export_package(bench, "parcels", place, options, now=NOW)


def packed(entries: list[tuple[tarfile.TarInfo, bytes]], archive: Path, *, end: bytes = b"") -> Path:
    """An archive with exactly these entries, however bad they are."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    archive.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(raw.getvalue()) + end)
    return archive


def entry(name: str, content: bytes = b"x", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, content


def original_package(folder: Path, **changes: Any) -> Path:
    """A version 1.0 package, built from the documented format."""
    package = {
        "template_id": "support",
        "exported_at": "2025-03-01T10:00:00Z",
        "dataset_file": "dataset/support.db",
        "logs_file": "logs/recent.jsonl",
        "analytics_file": "analytics/analytics.duckdb",
        "git_initialized": True,
        "version": "1.0",
    }
    manifest = {
        "id": "support",
        "name": "Support",
        "prompt": 'Help {customer_name}. Answer as {"answer": "..."} and mind {other}.',
        "variables": ["customer_name"],
        "default_model": "gpt-4",
        "default_provider": "openai",
        "metadata": {"team": "care"},
        "created_at": "2025-01-01T00:00:00Z",
        "updated_at": "2025-02-01T00:00:00Z",
    }
    for name in ("dataset", "logs", "analytics", ".git/hooks"):
        (folder / name).mkdir(parents=True)
    (folder / ".git/hooks/post-checkout").write_text("#!/bin/sh\ntouch hacked\n")
    (folder / "analytics/analytics.duckdb").write_bytes(b"every template's figures")
    (folder / "logs/recent.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (folder / "package.yaml").write_text(yaml.safe_dump({**package, **changes.get("package", {})}))
    (folder / "manifest.yaml").write_text(yaml.safe_dump({**manifest, **changes.get("manifest", {})}))
    with closing(sqlite3.connect(folder / "dataset/support.db")) as connection, connection:
        connection.execute(
            "CREATE TABLE examples (id TEXT, prompt_id TEXT, model TEXT, input TEXT, output TEXT, variables TEXT, "
            "success INTEGER, cost REAL, metadata TEXT, created_at TEXT)"
        )
        rows = [
            ("1", "support", "gpt-4", "Help me", "Gladly, Jordan.", json.dumps({"customer_name": "Jordan"}), 1, 0.1),
            ("2", "support", "gpt-4", "And me", "", json.dumps({"customer_name": "Kim"}), 0, 0.1),
        ]
        connection.executemany("INSERT INTO examples VALUES (?, ?, ?, ?, ?, ?, ?, ?, '{}', 'x')", rows)
    return folder
