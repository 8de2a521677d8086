"""What the Dagster UI says when a step fails: the error's own words and what to do next, not a stack of calls."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import dagster as dg

from rs_gateway.disk_faults import disk_fault
from rs_gateway.domain.errors import RouteSwitchError

DISK = "disk"
"""The `error_code` of what a disk refuses."""

_THEN = "then **Re-execute > From failure**: what was evaluated is kept, and is not paid for again."
_AGAIN = f"Mend what the message names, {_THEN}"
_PROVIDER = (
    "See that the provider answers: `route-switch check --live` asks every model once, `/status` of the gateway says "
    "what it meets. Then **Re-execute > From failure**: what was evaluated is kept, and is not paid for again."
)
REMEDIES: Mapping[str, str] = {
    "no_labels": "Label answers or import rows as the message shows, then launch the run again.",
    "preflight_refused": (
        "Nothing but the pre-flight's probe calls was spent. Do what the message says, then launch the run again."
    ),
    "study_busy": (
        "Wait for the run that holds the target, or terminate it under **Runs**; then **Re-execute > From failure**."
    ),
    "budget_exhausted": (
        "Raise the limit in the launchpad (`ops.study.config`) or in route-switch.yaml, then launch the run again: "
        "answers that were paid for are kept and cost nothing again."
    ),
    "lake_busy": "Another ingest is under way: **Re-execute** when it has ended.",
    "configuration_error": (
        "Mend route-switch.yaml, or the run's own configuration in the launchpad, then **Re-execute > From failure**. "
        "Every step reads the file anew."
    ),
    "step_missing": (
        "Materialize the asset that the message names for this partition first, or launch the job `optimize`."
    ),
    "not_comparable": (
        "Launch the job `optimize` for this partition: sample, study and comparison must belong together."
    ),
    "study_failed": _PROVIDER,
    "provider_unreachable": _PROVIDER,
}
"""Code of an error -> what to do next; docs/guides/dagster.md has them all."""


@contextmanager
def explained() -> Generator[None]:
    """Turn an error that we raise on purpose, or that is the disk's, into a failure with its words and the remedy.

    Others pass as they are: they are bugs, and their stack of calls is what helps.
    """
    try:
        yield
    except RouteSwitchError as error:
        raise _failure(str(error), what_to_do=REMEDIES.get(error.code, _AGAIN), code=error.code) from error
    except OSError as error:
        if (fault := disk_fault(error)) is None:
            raise
        raise _failure(fault.words, what_to_do=f"{fault.remedy}, {_THEN}", code=DISK) from error


def _failure(description: str, *, what_to_do: str, code: str) -> dg.Failure:
    return dg.Failure(
        description=description,
        metadata={"what_to_do": dg.MetadataValue.md(what_to_do), "error_code": dg.MetadataValue.text(code)},
        allow_retries=False,
    )
