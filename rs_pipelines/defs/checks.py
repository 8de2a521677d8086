"""What is checked, where the Dagster UI shows it. Publishing verifies the gate again; nothing depends on this alone."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.evaluation import Evaluator, JudgingEvaluator
from rs_pipelines import results
from rs_pipelines.defs.calibration import calibration_sample
from rs_pipelines.defs.evaluation import comparison
from rs_pipelines.defs.failures import explained
from rs_pipelines.defs.metadata import of_comparison
from rs_pipelines.defs.partitions import targets
from rs_pipelines.defs.resources import StoresResource
from rs_pipelines.defs.run_study import study_of_run
from rs_pipelines.evaluator_sanity import check_evaluator
from rs_pipelines.sample import CalibrationSample, Target
from rs_pipelines.sample_checks import (
    Finding,
    balanced,
    enough_rows,
    kept_apart,
    tells_right_from_wrong,
    within_budget,
)
from rs_pipelines.workbench import Workbench

_SAMPLE_CHECKS: Mapping[str, str] = {
    "enough_rows": "Rows on every side: for a search, and for `evaluation.min_test_rows`.",
    "no_example_in_two_splits": "No input on two sides, no demo of the live version among the test rows. Blocking: a "
    "gain that was proven on rows which the search knew would be no proof.",
    "label_balance": "No answer is nearly all there is, none is missing on a side.",
    "evaluator_sanity": "The evaluator, the run's own where it has one, scores expected answers higher than those of "
    "other rows.",
}
BEATS_LIVE = "beats_live"
_WARN_ONLY = {"label_balance"}
_BLOCKING = {"no_example_in_two_splits"}

with warnings.catch_warnings():
    # Partitioned checks are in preview. An unpartitioned one would let one target's pass stand for another's failure.
    warnings.simplefilter("ignore", dg.PreviewWarning)

    @dg.multi_asset_check(
        name="sample_checks",
        specs=[
            dg.AssetCheckSpec(
                name,
                asset=calibration_sample,
                description=description,
                blocking=name in _BLOCKING,
                partitions_def=targets,
            )
            for name, description in _SAMPLE_CHECKS.items()
        ],
    )
    def sample_checks(context: dg.AssetCheckExecutionContext, stores: StoresResource) -> Iterator[dg.AssetCheckResult]:
        with explained():
            bench = stores.open()
            target = bench.target_of_key(context.partition_key)
            sample = results.latest_sample(bench, target)
            spec = _evaluator_of_run(context.run) or bench.evaluator_spec(
                bench.registry.get(target.template_id).template
            )
            findings = _findings(bench, target, sample, spec)
        for name, finding in findings.items():
            yield _result(finding, check_name=name, warn_only=name in _WARN_ONLY)

    @dg.multi_asset_check(
        name="comparison_checks",
        specs=[
            dg.AssetCheckSpec(
                "cost_within_budget",
                asset=comparison,
                description="Study and comparison took no more calls, tokens and dollars than they were allowed.",
                partitions_def=targets,
            ),
            dg.AssetCheckSpec(
                BEATS_LIVE,
                asset=comparison,
                description="The gain is proven on held-out rows. If not, nothing is published.",
                blocking=True,
                partitions_def=targets,
            ),
        ],
    )
    def comparison_checks(
        context: dg.AssetCheckExecutionContext, stores: StoresResource
    ) -> Iterator[dg.AssetCheckResult]:
        with explained():
            bench, searched = stores.open(), study_of_run(context.instance, context.run.run_id)
            target, study_id = bench.target_of_key(context.partition_key), searched and searched.study_id
            record = results.study_of(bench, target, study_id)
            compared = results.comparison_of(bench, target, study_id)
            spent = results.spending(bench, record.study_id)
        yield _result(within_budget(spent, record.plan.allowance), check_name="cost_within_budget")
        yield dg.AssetCheckResult(
            passed=compared.verdict.publish,
            check_name=BEATS_LIVE,
            description=" ".join(compared.verdict.reasons),
            metadata=of_comparison(compared),
        )


def _result(finding: Finding, *, check_name: str, warn_only: bool = False) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=finding.passed,
        check_name=check_name,
        severity=dg.AssetCheckSeverity.WARN if warn_only else dg.AssetCheckSeverity.ERROR,
        description=finding.words,
        metadata=dict(finding.figures),
    )


def _findings(
    bench: Workbench, target: Target, sample: CalibrationSample, evaluator_spec: JsonObject
) -> Mapping[str, Finding]:
    return {
        "enough_rows": enough_rows(sample, min_test_rows=bench.settings.evaluation.min_test_rows),
        "no_example_in_two_splits": kept_apart(sample, bench.live(target).text),
        "label_balance": balanced(sample),
        "evaluator_sanity": _evaluator_sanity(bench.evaluator_of(evaluator_spec), sample),
    }


def _evaluator_sanity(evaluator: Evaluator, sample: CalibrationSample) -> Finding:
    judging = isinstance(evaluator, JudgingEvaluator)
    return tells_right_from_wrong(None if judging else check_evaluator(evaluator, sample.examples))


def _evaluator_of_run(run: dg.DagsterRun) -> JsonObject | None:
    """What the launchpad says, for the step `study` of this run."""
    config: Any = run.run_config
    for key in ("ops", "study", "config", "evaluator"):
        config = config.get(key) or {}
    return config or None
