"""Forgetting traces: everything that was stored of them, and everything that was made from them, is found and removed.

What was derived goes first and the trace store last: interrupted, the same request finds what is left.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from rs_gateway.domain.ports import StoredInput
from rs_gateway.wiring import open_trace_eraser
from rs_pipelines.evaluators.embedding_cache import EmbeddingCache
from rs_pipelines.examples import key_of_input
from rs_pipelines.inputs import example_id
from rs_pipelines.lake import Searched
from rs_pipelines.lake_edit import LakeEdit
from rs_pipelines.lake_schema import TABLES, TRACES
from rs_pipelines.packages.format import STUDIES_DIR, Watch, unwatched
from rs_pipelines.packages.provenance import imported_records
from rs_pipelines.stores_lock import OnWait, stores_lock, wait_silently
from rs_pipelines.studies import StudyFiles
from rs_pipelines.workbench import Workbench

_PLACES = 4
"""Steps of either half, for whoever watches."""


@dataclass(frozen=True, slots=True)
class QuotingVersion:
    """A version whose demos were made from forgotten traces. Versions are never changed: retire it.

    Attributes:
        live_for: models that it serves; `*` is any other.
        demos: how many of its demos.
    """

    template_id: str
    version: int
    live_for: tuple[str, ...]
    demos: int


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of some traces, and where.

    Attributes:
        trace_ids: in the trace store, the lake or both.
        keys: template id -> hashes of the normalised inputs of its traces.
        examples: ids of the examples that were made from the traces, or of the same input.
        feedback: rows in the trace store; lake_rows: traces and feedback in the lake, also
            in files that count no more.
        samples: sample file -> its rows; studies: study and comparison files that show their words.
        study_ids: searched with such a sample.
        dataset_rows: template id -> imported rows of the same input.
        answers: cached model answers that may be about them.
        packages: imported packages whose records show their words; they are not changed.
        unreadable: files of the lake that count no more and could not be searched, and why.
    """

    trace_ids: frozenset[str]
    keys: Mapping[str, frozenset[str]]
    examples: frozenset[str]
    traces: int
    feedback: int
    lake_rows: int
    samples: Mapping[Path, frozenset[str]]
    studies: tuple[Path, ...]
    study_ids: frozenset[str]
    dataset_rows: Mapping[str, int]
    answers: int
    versions: tuple[QuotingVersion, ...]
    packages: tuple[Path, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def counts(self) -> Mapping[str, int]:
        """What would be removed, for people and scripts."""
        return {
            "traces": self.traces,
            "feedback": self.feedback,
            "lake_rows": self.lake_rows,
            "sample_rows": sum(len(rows) for rows in self.samples.values()),
            "studies": len(self.studies),
            "dataset_rows": sum(self.dataset_rows.values()),
            "cached_answers": self.answers,
        }

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not any(self.counts.values())


def find(
    bench: Workbench, *, end_user: str | None = None, trace_ids: Collection[str] = (), watch: Watch = unwatched
) -> Found:
    """Look for the traces of a user, or for these traces, in every store. Changes nothing.

    Args:
        end_user: the `user` of the requests, exactly as it was stored: where it is redacted, what stands in its place.
        watch: told which store is looked at.

    Raises:
        StoreError: a store cannot be read.
    """
    watch("looking into the trace store", 0, _PLACES)
    eraser = open_trace_eraser(bench.settings)
    in_store = list(eraser.of_user(end_user) if end_user is not None else eraser.of_ids(trace_ids))
    watch("looking into the lake", 1, _PLACES)
    searched = bench.lake.settled(lambda: _in_lake(bench, end_user=end_user, trace_ids=trace_ids))
    in_lake = [StoredInput(*row) for row in searched.rows.unique("trace_id").iter_rows()]
    # One of them may have expired in the store, another one not have been ingested yet.
    ids = frozenset(found.trace_id for found in (*in_store, *in_lake))
    keys = _keys(bench, [*in_store, *in_lake])
    examples = {example_id(template_id, key) for template_id, of in keys.items() for key in of}
    watch("looking into samples and studies", 2, _PLACES)
    origins = bench.samples.origins()
    examples |= {name for rows in origins.values() for name, trace_id in rows.items() if trace_id in ids}
    samples = {path: frozenset(rows.keys() & examples) for path, rows in origins.items() if rows.keys() & examples}
    touched_samples = {path.stem for path in samples}
    known_samples = {path.stem for path in origins}
    study_samples = bench.studies.ids()
    # A study whose sample is lost may have been searched with anything.
    study_ids = {s for s, sample in study_samples.items() if sample in touched_samples or sample not in known_samples}
    studies = tuple(bench.studies.quoting(examples)) if examples else ()
    anything = bool(ids or samples)
    watch("counting its rows", 3, _PLACES)
    lake_rows, unreadable = bench.lake.settled(lambda: _n_in_lake(bench, ids))
    return Found(
        trace_ids=ids,
        keys=keys,
        examples=frozenset(examples),
        traces=len(in_store),
        feedback=eraser.n_feedback(ids),
        lake_rows=lake_rows,
        samples=samples,
        studies=studies,
        study_ids=frozenset(study_ids),
        dataset_rows={t: n for t, of in keys.items() if (n := bench.datasets.count(t, of))},
        answers=len(_answers(bench, study_samples.keys() - study_ids)) if anything else 0,
        versions=_quoting_versions(bench, examples),
        packages=_quoting_packages(bench, keys, examples),
        unreadable={**searched.unreadable, **unreadable},
    )


def forget(
    bench: Workbench,
    found: Found,
    *,
    forget_runs: Callable[[], None] = lambda: None,
    on_wait: OnWait = wait_silently,
    watch: Watch = unwatched,
) -> None:
    """Remove all of it; none of its bytes is left in the stores when this returns.

    A backup or restore of the same data directory is waited for, and waits for this.

    Args:
        forget_runs: removes Dagster's runs of the studies that were found.
        on_wait: told whom it waits for.
        watch: told which store it is removed from.

    Raises:
        StudyBusyError, LakeBusyError: a run is at work on it; nothing was removed.
        StoreError: a store cannot be written; run it again.
    """
    with ExitStack() as stack:
        stack.enter_context(stores_lock(bench.data, "erasure", on_wait=on_wait))
        touched = {path.parent.name for path in found.samples} | {path.parent.parent.name for path in found.studies}
        for target in bench.targets():
            if target.key in touched:
                stack.enter_context(bench.studies.lock(target))
        # Held from here on, so that no ingest brings over what is about to go.
        lake = stack.enter_context(bench.lake.edit_if_there())
        # Before the studies, which they are found through.
        watch("removing runs from Dagster's history", 0, _PLACES)
        forget_runs()
        watch("removing it from samples, studies and caches", 1, _PLACES)
        _forget_derived(bench, found)
        watch("removing it from the lake", 2, _PLACES)
        if lake is not None:
            _forget_in_lake(lake, found.trace_ids)
        watch("removing it from the trace store", 3, _PLACES)
        open_trace_eraser(bench.settings).erase(found.trace_ids)


def _forget_derived(bench: Workbench, found: Found) -> None:
    kept_accounts = bench.studies.ids().keys() - found.study_ids
    texts = set(_answers(bench, kept_accounts)) if found.answers else set[str]()
    for path, rows in found.samples.items():
        texts |= bench.samples.texts(path, rows)
    EmbeddingCache(bench.data / "cache" / "embeddings.db").forget(texts)
    cache = bench.known_answers() if found.answers else None
    if cache is not None:
        with closing(cache):
            cache.keep_only_of(kept_accounts)
    for template_id in found.dataset_rows:
        bench.datasets.forget(template_id, found.keys[template_id])
    for path in found.studies:
        bench.studies.forget(path, found.examples)
    # A table by traces, made again from the lake by the next ingest job.
    bench.live_scores.unlink(missing_ok=True)
    # After the studies, which are found through them.
    for path, rows in found.samples.items():
        bench.samples.forget(path, rows)


def _in_lake(bench: Workbench, *, end_user: str | None, trace_ids: Collection[str]) -> Searched:
    chosen = pl.col("end_user") == end_user if end_user is not None else pl.col("trace_id").is_in(list(trace_ids))
    columns = ["trace_id", "template_id", "variables", "request_messages"]
    return bench.lake.search(TRACES, columns, chosen=chosen)


def _n_in_lake(bench: Workbench, trace_ids: Collection[str]) -> tuple[int, Mapping[str, str]]:
    named = pl.col("trace_id").is_in(list(trace_ids))
    found = [bench.lake.search(table, ["seq"], chosen=named) for table in TABLES]
    unreadable = {path: why for searched in found for path, why in searched.unreadable.items()}
    return sum(searched.rows["seq"].n_unique() for searched in found), unreadable


def _forget_in_lake(lake: LakeEdit, trace_ids: Collection[str]) -> None:
    named = pl.col("trace_id").is_in(list(trace_ids))
    for table in TABLES:
        for part in lake.manifest.table(table.name).parts:
            if not lake.scan(table, part).filter(named).select(pl.len()).collect().item():
                continue
            kept = lake.read(table, part).filter(~named)
            lake.replace(table, remove=[part], add=lake.write(table, kept))
    lake.purge()


def _keys(bench: Workbench, inputs: Sequence[StoredInput]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    state = bench.registry.load()
    for asked in inputs:
        registered = None if asked.template_id is None else state.templates.get(asked.template_id)
        if registered is None or asked.template_id is None:
            continue
        key = key_of_input(asked.variables, asked.request_messages, registered.template)
        if key is not None:
            found.setdefault(asked.template_id, set()).add(key)
    return {template_id: frozenset(keys) for template_id, keys in found.items()}


def _answers(bench: Workbench, kept_accounts: Collection[str]) -> list[str]:
    cache = bench.known_answers()
    if cache is None:
        return []
    with closing(cache):
        return cache.texts_but_of(kept_accounts)


def _quoting_versions(bench: Workbench, examples: Collection[str]) -> tuple[QuotingVersion, ...]:
    state = bench.registry.load()
    found: list[QuotingVersion] = []
    for template_id, registered in sorted(state.templates.items()):
        for number, version in sorted(registered.versions.items()):
            demos = sum(demo.example_id in examples for demo in version.text.demos)
            if demos:
                live_for = tuple(model for model, live in registered.serving.items() if live == number)
                found.append(QuotingVersion(template_id, number, live_for, demos))
    return tuple(found)


def _quoting_packages(bench: Workbench, template_ids: Collection[str], examples: Collection[str]) -> tuple[Path, ...]:
    folders = [folder for template_id in sorted(template_ids) for folder in imported_records(bench.data, template_id)]
    return tuple(folder for folder in folders if StudyFiles(folder / STUDIES_DIR).quoting(examples))
