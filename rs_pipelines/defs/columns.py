"""Column schemas of the tables behind the assets, as the Dagster UI shows them."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

_TYPES: Mapping[str, str] = {
    "String": "string",
    "Int64": "int",
    "Float64": "float",
    "Boolean": "bool",
    "Date": "date",
    "Datetime": "timestamp",
}
_MEANINGS: Mapping[str, str] = {
    "seq": "Commit sequence in the gateway's store.",
    "trace_id": "ULID that the client got as `x-route-switch-trace-id`.",
    "started_at": "When the request came, UTC.",
    "template_id": "Template that was rendered; empty for pass-through.",
    "version": "Version of the template that was served.",
    "combination_id": "Template x model x parameters that answered.",
    "model": "Model that was asked.",
    "request_model": "What the client asked for.",
    "response_model": "What the provider says it used.",
    "outcome": "complete, truncated, content_filtered, provider_cut, client_cancelled, provider_error or rejected.",
    "latency_s": "Seconds until the last byte.",
    "time_to_first_token_s": "Seconds until the first token; streams only.",
    "usage_source": "provider, estimated or unknown.",
    "cost_usd": "US dollars; empty where the price is unknown, which is not 0.",
    "decision": "What routing chose, from what, and why; JSON.",
    "attempts": "Every call that was made; JSON.",
    "variables": "The client's variables; JSON.",
    "rendered_messages": "What the provider was sent; JSON.",
    "response": "What it answered; JSON.",
    "dt": "UTC day.",
    "kind": "label, score, outcome or comment.",
    "value": "JSON in `feedback`; in [0, 1] in `live_scores`.",
    "source": "human, teacher:MODEL, or the system that said it.",
    "measure": "score, outcome, or label: the served answer beside the right one.",
    "target": "Partition key: template and model.",
    "said_seq": "Commit sequence of the feedback.",
    "example_id": "Hash of template and normalised input.",
    "messages": "The client's own messages; JSON.",
    "expected": "The output that would have been right.",
    "provenance": "Who vouches for it: human, imported, outcome, teacher:MODEL or captured:COMBINATION.",
    "split": "train, val or test.",
    "live_value": "Score of the live version in [0, 1]; empty where the model gave no answer.",
    "candidate_value": "The same of the candidate.",
}


def column_schema(schema: Mapping[str, pl.DataType]) -> dict[str, Any]:
    """Metadata that shows the columns of a Polars schema."""
    columns = [
        dg.TableColumn(name, _TYPES.get(type(dtype).__name__, str(dtype)), description=_MEANINGS.get(name))
        for name, dtype in schema.items()
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}
