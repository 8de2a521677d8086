"""A lazy frame over the lake that outlasts its files."""

from collections.abc import Callable, Generator
from typing import TypeAlias

import polars as pl
from polars.io.plugins import register_io_source

Settled: TypeAlias = Callable[[Callable[[], pl.DataFrame]], pl.DataFrame]
"""Calls what it is given until nobody removes a file in between; see `Lake.settled`."""


def lasting_frame(make: Callable[[], pl.LazyFrame], *, settled: Settled) -> pl.LazyFrame:
    """What `make` gives now, to be collected at any time; it is made anew where its files have been removed since.

    Columns, filters and limits of a query reach the files. What they leave is held in memory while the query runs.

    Args:
        make: may be called from any thread.
    """
    frame = make()

    def read(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Generator[pl.DataFrame]:
        def asked() -> pl.DataFrame:
            found = frame if predicate is None else frame.filter(predicate)
            found = found if with_columns is None else found.select(with_columns)
            return (found if n_rows is None else found.head(n_rows)).collect()

        def again() -> pl.DataFrame:
            nonlocal frame
            frame = make()
            return asked()

        try:
            rows = asked()
        except (FileNotFoundError, pl.exceptions.ComputeError):
            rows = settled(again)
        yield rows

    return register_io_source(read, schema=frame.collect_schema())
