"""What every command prints with `--json`, declared in one place: scripts rely on these keys and types."""

from collections.abc import Mapping
from typing import Any, NotRequired

import pydantic
from typing_extensions import TypedDict

Record = dict[str, Any]
"""An object with keys of its own, declared by the dataclass that it is made from."""

_FACTS = {
    "seq": int,
    "trace_id": str,
    "started_at": float,
    "template_id": str | None,
    "version": int | None,
    "combination_id": str | None,
    "provider": str | None,
    "model": str | None,
    "request_model": str | None,
    "response_model": str | None,
    "outcome": str,
    "error_code": str | None,
    "finish_reason": str | None,
    "stream": bool,
    "latency_s": float,
    "time_to_first_token_s": float | None,
    "input_tokens": int | None,
    "output_tokens": int | None,
    "usage_source": str,
    "cost_usd": float | None,
    "end_user": str | None,
    "key_id": str | None,
    "endpoint": str,
    "cached_input_tokens": int | None,
    "reasoning_tokens": int | None,
    "cache_write_tokens": int | None,
    "parsed": bool | None,
    "decision": Record | None,
    "attempts": list[Record],
}
_FACTS_WITH_PAYLOAD = {
    **_FACTS,
    "request_messages": list[Record] | None,
    "variables": Record | None,
    "parameters": Record | None,
    "rendered_messages": list[Record] | None,
    "response": Record | None,
}
_KEY = {
    "key_id": str,
    "name": str,
    "state": str,
    "templates": list[str] | None,
    "models": list[str] | None,
    "admin": bool,
    "limits": {
        "requests_per_minute": int | None,
        "tokens_per_minute": int | None,
        "concurrency": int | None,
        "budget_usd": float | None,
        "budget_period": str,
        "allow_unpriced": bool,
    },
    "store": str | None,
    "created_at": str,
    "created_by": str,
    "expires_at": str | None,
    "revoked_at": str | None,
}
_USED = {"requests": int, "tokens": int, "cost_usd": float, "unpriced_requests": int}
_KEY_IN_USE = {**_KEY, "spent_usd": float, "usage": {"total": _USED, "day": _USED, "month": _USED}}
_CHANGE = {
    "action": str,
    "version": int | None,
    "model": str | None,
    "by": str,
    "at": str,
    "reason": str,
    "previous": int | None,
    "comparison_id": str | None,
    "combination_id": str | None,
    "weight": float | None,
}
_CHANGED = {"template_id": str, **_CHANGE, "proven": bool, "serving": dict[str, int], "still_pinned": dict[str, int]}
_ONE_VERSION = {"version": int, "model": str | None, "content_hash": str}
_FIGURES = {
    "requests": int,
    "outcomes": dict[str, int],
    "error_classes": dict[str, int],
    "success_rate": float | None,
    "latency_s": dict[str, float | None],
    "time_to_first_token_s": dict[str, float | None],
    "tokens": dict[str, int],
    "cost_usd": float | None,
    "unpriced_requests": int,
    "usage_estimated_requests": int,
    "usage_unknown_requests": int,
    "unparsable_answers": int,
    "retries": int,
    "fallbacks": int,
}
_WINDOW = {
    "since": str | None,
    "overall": _FIGURES,
    "templates": [{**_FIGURES, "template_id": str | None}],
    "versions": [{**_FIGURES, "template_id": str | None, "version": int | None}],
    **dict.fromkeys(("combinations", "models", "endpoints"), list[Record]),
}
_PACKED = dict.fromkeys(
    ("versions", "changes", "studies", "comparisons", "dataset_rows", "traces", "feedback", "figures"), int
)
_BACKUP = {"directory": str, "parts": list[str], "left_out": dict[str, str], "files": int, "bytes": int}

RESULTS: Mapping[str, Any] = {
    "init": {"file": str, "addr": str, "providers": [{"name": str, "key_variable": str | None, "models": list[str]}]},
    "check": {"ok": bool, "templates": list[str], "problems": list[str]},
    "check --live": {
        "ok": bool,
        "templates": list[str],
        "problems": list[str],
        "live": [{"provider": str, "model": str, "latency_s": float, "error": str | None}],
    },
    "explain": {**_FACTS, "reached": str | None},
    "explain --payload": {**_FACTS_WITH_PAYLOAD, "reached": str | None},
    "stats": {
        "as_of": str,
        "template_id": str | None,
        "windows": dict.fromkeys(("5m", "1h", "24h", "all"), _WINDOW),
    },
    "ingest": {"rows": int, "feedback_rows": int, "files": int, "seconds": float},
    "ingest --compact": {
        "rows": int,
        "feedback_rows": int,
        "files": int,
        "seconds": float,
        "files_merged": int,
        "files_after": int,
    },
    "optimize": {
        "template_id": str,
        "model": str,
        "baseline_score": float,
        "optimized_score": float,
        "interval": list[float],
        "n_test": int,
        "test_rows_by_provenance": dict[str, int],
        "won": int,
        "lost": int,
        "objective": str,
        "by_label": list[Record],
        "input_tokens": list[float | None],
        "output_tokens": list[float | None],
        "usd_per_1000_calls": list[float | None],
        "rows_won": list[Record],
        "rows_lost": list[Record],
        "published": bool,
        "published_version": int | None,
        "reasons": list[str],
        "model_calls": int,
        "paid_input_tokens": int,
        "paid_output_tokens": int,
        "paid_usd": float | None,
        "seconds": float,
        "study_id": str,
        "comparison_id": str,
        "run_id": str,
    },
    "optimize --preflight": {
        "template_id": str,
        "model": str,
        "usable": int,
        "drawn": int,
        "duplicates": int,
        "by_provenance": dict[str, int],
        "by_split": dict[str, int],
        "test_by_provenance": dict[str, int],
        "labels": dict[str, Any],
        "provable": {
            "kind": str,
            "smallest": float | None,
            "best_case": float | None,
            "live_score": float,
            "basis": str,
        },
        "evaluator": {"n": int, "mean_right": float, "mean_wrong": float | None, "binary": bool},
        "live": Record,
        "cost": {
            "calls": int,
            "input_tokens": int | None,
            "output_tokens": int | None,
            "usd": float | None,
            "seconds": float | None,
        },
        "objections": list[str],
        "warnings": list[str],
        "val_used": int,
        "judged": bool,
    },
    "find-best-model": {
        "template_id": str,
        "n_test": int,
        "quality_bound": float,
        "best": str,
        "cheapest_within_bound": str | None,
        "cost_basis": str,
        "models": [
            {
                "model": str,
                "prompt_hash": str,
                "is_live": bool,
                "answered": int,
                "mean": float,
                "low": float,
                "high": float,
                "behind": float,
                "behind_low": float,
                "within_bound": bool,
                "on_front": bool,
                "usd_per_1000_calls": float | None,
                "input_tokens": float | None,
                "output_tokens": float | None,
                "p50_s": float | None,
                "p95_s": float | None,
            }
        ],
        "transfer": dict[str, dict[str, float | None]],
        "model_calls": int,
        "unfinished": dict[str, str],
        "failed": dict[str, str],
        "test_by_provenance": dict[str, int],
        "left_out_by_provenance": dict[str, int],
    },
    "backup": {**_BACKUP, "seconds": float},
    "restore": {
        **_BACKUP,
        "made_at": str,
        "replaced": list[str],
        "configuration": str,
        "restored": bool,
        "seconds": float,
    },
    "forget": {
        "found": dict.fromkeys(
            (
                "traces",
                "feedback",
                "lake_rows",
                "sample_rows",
                "studies",
                "dataset_rows",
                "cached_answers",
                "dagster_runs",
            ),
            int,
        ),
        "versions": list[Record],
        "packages": list[str],
        "unreadable": list[str],
        "forgotten": bool,
    },
    "demo": {
        "baseline_score": float,
        "optimized_score": float,
        "interval": list[float],
        "n_test": int,
        "published": bool,
        "published_version": int | None,
        "served_version": int,
        "task_model_calls": int,
        "input_tokens": int,
        "output_tokens": int,
        "seconds": float,
        "study_id": str,
        "run_id": str,
    },
    "template publish": _CHANGED,
    "template rollback": _CHANGED,
    "template edit": {"template_id": str, "version": int | None, "based_on": int},
    "template register": {"template_id": str, "version": int},
    "template list": [
        {"template_id": str, "name": str, "versions": int, "serving": dict[str, int], "problem": str | None}
    ],
    "template show": {
        "template": {
            "template_id": str,
            "name": str,
            "variables": list[str],
            "evaluator": Record,
            "default": bool,
            "reference": str | None,
            "store": str | None,
        },
        "serving": dict[str, int],
        "versions": [
            {
                "number": int,
                "text": {"instruction": str, "user": str | None, "demos": list[Record], "output": str, "nearest": int},
                "model": str | None,
                "origin": {
                    "kind": str,
                    "by": str,
                    "at": str,
                    "study_id": str | None,
                    "comparison_id": str | None,
                    "note": str | None,
                },
                "content_hash": str,
            }
        ],
        "history": [_CHANGE],
    },
    "template history": [_CHANGE],
    "template diff": {"template_id": str, "from": _ONE_VERSION, "to": _ONE_VERSION, "diff": list[str]},
    "model fetch": {"file": str},
    "keys create": {**_KEY, "key": str},
    "keys list": [_KEY_IN_USE],
    "keys show": _KEY_IN_USE,
    "keys update": _KEY,
    "keys revoke": _KEY,
    "gateway combinations": [
        {
            "combination_id": str,
            "name": str,
            "template_id": str | None,
            "model": str,
            "provider": str,
            "enabled": bool,
            "weight": float,
            "weight_is_set": bool,
            "share": float,
            "version": int | None,
            "fallbacks": list[str],
            "fallbacks_are_set": bool,
            "problem": str | None,
        }
    ],
    "traces tail": _FACTS,
    "traces show": _FACTS_WITH_PAYLOAD,
    "traces export": _FACTS_WITH_PAYLOAD,
    "traces export --output": {"traces": int, "file": str},
    "feedback add": {"feedback_id": str, "trace_id": str},
    "feedback import": {"stored": int, "known": int, "skipped": int, "problems": [{"line": int, "reason": str}]},
    "dataset import": {
        "imported": int,
        "corrected": int,
        "duplicates": int,
        "skipped": int,
        "problems": [{"line": int, "reason": str}],
    },
    "dataset teach": {
        "source": str,
        "inputs": int,
        "labelled": int,
        "unanswered": int,
        "calls": int,
        "budget_spent": bool,
        "remaining": int,
    },
    "dataset export": {
        "variables": Record,
        "expected": str,
        "messages": NotRequired[list[Record]],
        "split": NotRequired[str],
    },
    "dataset export --output": {"rows": int, "file": str},
    "dataset show": {
        "template_id": str,
        "rows": int,
        "by_split": dict[str, int],
        "labels": [{"expected": str, "rows": int}],
        "first_rows": [{"variables": Record, "messages": list[Record], "expected": str, "split": str}],
    },
    "study list": [
        {
            "study_id": str,
            "template_id": str,
            "model": str,
            "started_at": str,
            "state": str,
            "seed": int,
            "evaluations": int,
            "calls": int,
            "usd": float | None,
            "comparison_calls": int | None,
            "comparison_usd": float | None,
            "live_value": float | None,
            "best_value": float | None,
            "gain": float | None,
            "interval": list[float] | None,
            "published_version": int | None,
        }
    ],
    "study show": {"study": Record, "comparison": Record | None, "published_version": int | None},
    "package export": {
        "path": str,
        "template_id": str,
        "version": str,
        "sha256": str,
        "counts": _PACKED,
        "redaction": {"rules": list[str], "versions_with_matches": list[int]},
        "files": int,
    },
    "package verify": {
        "ok": bool,
        "path": str,
        "version": str,
        "template_id": str,
        "exported_at": str,
        "sha256": str,
        "counts": _PACKED,
        "notes": list[str],
    },
    "package import": {
        "template_id": str,
        "known": bool,
        "versions": dict[str, int],
        "drafts": list[int],
        "live": list[int],
        "dataset": {"imported": int, "corrected": int, "duplicates": int},
        "unlabelled_rows": int,
        "figures": int,
        "records": str,
        "notes": list[str],
    },
}
"""Command, with an option where that gives another result -> exactly the keys of its result, and their types."""


def check_result(name: str, value: Any) -> None:
    """Raises pydantic.ValidationError, which names the place: a key is missing, new, or of another type."""
    pydantic.TypeAdapter(_type_of(RESULTS[name], name)).validate_python(value, strict=True)


def _type_of(declared: Any, name: str) -> Any:
    if isinstance(declared, dict):
        fields = {str(key): _type_of(kind, f"{name}: {key}") for key, kind in declared.items()}
        whole: Any = TypedDict(name, fields)  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues] made at run time
        whole.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")
        return whole
    if isinstance(declared, list):
        (item,) = declared
        return list[_type_of(item, f"{name}: each")]
    return declared
