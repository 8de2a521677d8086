"""Calibration samples on disk."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from rs_gateway.adapters.file_schema import FileSchema
from rs_gateway.domain.errors import StoreError
from rs_pipelines.durable_files import write_durably
from rs_pipelines.parquet_files import replace_parquet
from rs_pipelines.sample import CalibrationSample, Example, Split, Target, sample_of

FORGOTTEN = "forgotten"
"""Provenance of a row that had to go: its input and its label are empty."""
SAMPLE_SCHEMA = FileSchema("folder of samples", "data_dir")
"""What the files look like as a whole, and how older ones get there. Forward only: append, never edit."""


class SampleStore:
    """Calibration samples as Parquet: `<target key>/<sample_id>.parquet`; `latest` names the last one saved."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, sample: CalibrationSample) -> Path:
        """Keep the sample and make it its target's latest; returns its file."""
        SAMPLE_SCHEMA.migrate(self.root)
        folder = self.root / Target(sample.template_id, sample.model).key
        path = folder / f"{sample.sample_id}.parquet"
        rows = [
            (
                e.example_id,
                json.dumps(dict(e.variables), ensure_ascii=False),
                json.dumps(e.messages, ensure_ascii=False),
                e.expected,
                e.provenance,
                e.split.value,
                e.trace_id,
            )
            for e in sample.examples
        ]
        replace_parquet(pl.DataFrame(rows, schema=SAMPLE_COLUMNS, orient="row"), path)
        write_durably(folder / "latest", sample.sample_id.encode())
        return path

    def load(self, target: Target, sample_id: str) -> CalibrationSample:
        """A saved sample. Raises StoreError when there is none, or its content is no longer what its id says."""
        SAMPLE_SCHEMA.migrate(self.root)
        path = self.root / target.key / f"{sample_id}.parquet"
        if not path.exists():
            raise StoreError(f"There is no sample {sample_id} of {target.key} in {self.root}.")
        frame = _read_sample(path)
        examples = tuple(
            Example(
                example_id=row["example_id"],
                variables=json.loads(row["variables"]),
                messages=tuple(json.loads(row["messages"])),
                expected=row["expected"],
                provenance=row["provenance"],
                split=Split(row["split"]),
                trace_id=row["trace_id"],
            )
            for row in frame.iter_rows(named=True)
        )
        if any(example.provenance == FORGOTTEN for example in examples):
            raise StoreError(f"Rows of sample {sample_id} of {target.key} were forgotten: draw the sample again.")
        sample = sample_of(target.template_id, target.model, examples)
        if sample.sample_id != sample_id:
            raise StoreError(f"{path} was changed: its rows make sample {sample.sample_id}. Draw the sample again.")
        return sample

    def origins(self) -> Mapping[Path, Mapping[str, str | None]]:
        """Of all samples: file -> (example id -> trace id, None for imported rows), forgotten rows left out."""
        return {
            path: {
                row["example_id"]: row["trace_id"]
                for row in _read_sample(path).filter(pl.col("provenance") != FORGOTTEN).iter_rows(named=True)
            }
            for path in sorted(self.root.glob("*/*.parquet"))
        }

    def texts(self, path: Path, example_ids: Collection[str]) -> set[str]:
        """The expected outputs of these examples in one sample."""
        return set(_read_sample(path).filter(pl.col("example_id").is_in(list(example_ids)))["expected"])

    def forget(self, path: Path, example_ids: Collection[str]) -> None:
        """Empty these rows of one sample. It can still be traced, and cannot be searched with any more."""
        gone = pl.col("example_id").is_in(list(example_ids))
        emptied = {"variables": "{}", "messages": "[]", "expected": "", "provenance": FORGOTTEN}
        frame = _read_sample(path).with_columns(
            *(pl.when(gone).then(pl.lit(text)).otherwise(pl.col(name)).alias(name) for name, text in emptied.items()),
            pl.when(gone).then(None).otherwise(pl.col("trace_id")).alias("trace_id"),
        )
        replace_parquet(frame.select(SAMPLE_COLUMNS.names()), path)

    def latest(self, target: Target) -> CalibrationSample | None:
        """The sample of `target` saved last, or None when there is none."""
        try:
            sample_id = (self.root / target.key / "latest").read_text().strip()
        except FileNotFoundError:
            return None
        return self.load(target, sample_id)


SAMPLE_COLUMNS = pl.Schema(
    {
        "example_id": pl.String(),
        "variables": pl.String(),
        "messages": pl.String(),
        "expected": pl.String(),
        "provenance": pl.String(),
        "split": pl.String(),
        "trace_id": pl.String(),
    }
)


def _read_sample(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path, glob=False, hive_partitioning=False)
