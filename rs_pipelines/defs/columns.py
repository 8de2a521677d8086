"""Column schemas of the tables behind the assets, as the Dagster UI shows them."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from rs_gateway.domain.traces import Outcome

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
    "provider": "Provider that answered; as named in `model_providers`.",
    "model": "Model that was asked.",
    "request_model": "What the client asked for.",
    "response_model": "What the provider says it used.",
    "outcome": "complete, truncated, content_filtered, provider_cut, client_cancelled, provider_error or rejected.",
    "error_code": "What went wrong, as the client was told; empty where nothing did.",
    "finish_reason": "Why the model stopped: stop, length, tool_calls, content_filter; empty without an answer.",
    "stream": "Whether the client asked for a stream.",
    "latency_s": "Seconds until the last byte.",
    "time_to_first_token_s": "Seconds until the first token; streams only.",
    "input_tokens": "Tokens of the prompt, cached ones included.",
    "output_tokens": "Tokens of the answer, reasoning included.",
    "cached_input_tokens": "Input tokens that the provider read from its cache.",
    "cache_write_tokens": "Input tokens that the provider wrote into its cache.",
    "reasoning_tokens": "Output tokens that the model spent on reasoning.",
    "usage_source": "provider, estimated or unknown.",
    "cost_usd": "US dollars; empty where the price is unknown, which is not 0.",
    "end_user": "The request's `user`, after redaction.",
    "key_id": "Client key that was used; empty where none is needed.",
    "endpoint": "API that was asked, such as chat.completions.",
    "parsed": "Whether an answer in an output format could be read; empty without one.",
    "decision": "What routing chose, from what, and why; JSON.",
    "attempts": "Every call that was made; JSON.",
    "request_messages": "The client's own messages; JSON.",
    "variables": "The client's variables; JSON.",
    "parameters": "What the client asked for beside messages, such as temperature; JSON.",
    "rendered_messages": "What the provider was sent; JSON.",
    "response": "What it answered; JSON.",
    "dt": "UTC day.",
    "id": "The row's own id in the imported file; empty without one.",
    "feedback_id": "ULID of the feedback.",
    "created_at": "When the feedback came, UTC.",
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
    "live_output": "What the model answered the live version.",
    "candidate_output": "What it answered the candidate.",
    "live_tokens": "Input and output tokens of the live version's call.",
    "candidate_tokens": "The same of the candidate's.",
    "requests": "Requests in all; the columns of outcomes sum to it.",
    **{outcome.value: "Requests with this outcome." for outcome in Outcome},
    **{f"latency_p{q}_s": f"Seconds until the last byte: {q} % took at most so long." for q in (50, 95, 99)},
    **{f"first_token_p{q}_s": f"Seconds until a stream's first token: {q} % took at most so long." for q in (50, 95)},
    "usage_estimated": "Requests whose tokens the gateway estimated.",
    "usage_unknown": "Requests whose tokens nobody knows.",
    "unpriced": "Requests that got something at a price nobody knows.",
    "scored": "Requests that somebody gave a score.",
    "mean_score": "Mean of these scores, in [0, 1].",
    "labelled": "Requests that somebody gave the right answer of.",
}


def column_schema(schema: Mapping[str, pl.DataType]) -> dict[str, Any]:
    """Metadata that shows the columns of a Polars schema."""
    columns = [
        dg.TableColumn(name, _TYPES.get(type(dtype).__name__, str(dtype)), description=_MEANINGS.get(name))
        for name, dtype in schema.items()
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}
