"""The lake's two tables: their columns, what decides a row's day, and the order inside a part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import polars as pl

TableName: TypeAlias = Literal["traces", "feedback"]
Packing: TypeAlias = Literal["fast", "small"]
"""How a part is compressed: for speed, or for size."""

INSTANT = pl.Datetime("us", "UTC")

TRACE_SCHEMA = pl.Schema(
    {
        "seq": pl.Int64(),
        "trace_id": pl.String(),
        "started_at": INSTANT,
        "template_id": pl.String(),
        "version": pl.Int64(),
        "combination_id": pl.String(),
        "provider": pl.String(),
        "model": pl.String(),
        "request_model": pl.String(),
        "response_model": pl.String(),
        "outcome": pl.String(),
        "error_code": pl.String(),
        "finish_reason": pl.String(),
        "stream": pl.Boolean(),
        "latency_s": pl.Float64(),
        "time_to_first_token_s": pl.Float64(),
        "input_tokens": pl.Int64(),
        "output_tokens": pl.Int64(),
        "usage_source": pl.String(),
        "cost_usd": pl.Float64(),
        "end_user": pl.String(),
        "key_id": pl.String(),
        "endpoint": pl.String(),
        "cached_input_tokens": pl.Int64(),
        "reasoning_tokens": pl.Int64(),
        "cache_write_tokens": pl.Int64(),
        "parsed": pl.Boolean(),
        "decision": pl.String(),
        "attempts": pl.String(),
        "request_messages": pl.String(),
        "variables": pl.String(),
        "parameters": pl.String(),
        "rendered_messages": pl.String(),
        "response": pl.String(),
        "dt": pl.Date(),
    }
)
"""The reader's columns, and `dt`, the UTC day of `started_at`. The seven from `decision` on are JSON text.

Parts written before `endpoint` and the four after it existed lack them: there they are null.
"""

FEEDBACK_SCHEMA = pl.Schema(
    {
        "seq": pl.Int64(),
        "feedback_id": pl.String(),
        "trace_id": pl.String(),
        "kind": pl.String(),
        "value": pl.String(),
        "source": pl.String(),
        "created_at": INSTANT,
        "dt": pl.Date(),
    }
)
"""The reader's columns (`value` is JSON text), and `dt`, the UTC day of `created_at`."""

SQL_TYPES: Mapping[pl.DataType, str] = {
    pl.Int64(): "BIGINT",
    pl.String(): "VARCHAR",
    pl.Float64(): "DOUBLE",
    pl.Boolean(): "BOOLEAN",
    pl.Date(): "DATE",
    INSTANT: "TIMESTAMP WITH TIME ZONE",
}


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the lake.

    Attributes:
        instant: the column that decides the day.
        order: what the rows of a part are sorted by.
    """

    name: TableName
    schema: pl.Schema
    instant: str
    order: tuple[str, ...]


TRACES = Table("traces", TRACE_SCHEMA, "started_at", ("template_id", "seq"))
FEEDBACK = Table("feedback", FEEDBACK_SCHEMA, "created_at", ("seq",))
TABLES = (TRACES, FEEDBACK)
