"""The wire: what the live figures look like."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rs_gateway.domain.analytics import Breakdown

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float | None, Field(ge=0)]


class _FromDomain(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class PercentilesBody(_FromDomain):
    """Seconds; null when nothing was measured. `mean` and `max` are exact."""

    p50: Seconds
    p95: Seconds
    p99: Seconds
    mean: Seconds
    max: Seconds


class TokensBody(_FromDomain):
    """Sums. `cached_input` and `cache_write` are part of `input`, `reasoning` of `output`."""

    input: Count
    output: Count
    cached_input: Count
    cache_write: Count
    reasoning: Count


class FiguresBody(_FromDomain):
    """What can be said of some requests."""

    requests: Count
    outcomes: dict[str, int] = Field(description="Outcome -> requests that ended with it.")
    error_classes: dict[str, int] = Field(description="Stable error code -> requests that ended with it.")
    success_rate: float | None = Field(
        ge=0,
        le=1,
        description="Answered requests among those that a provider answered or failed at; rejected and cancelled ones "
        "do not count. Null when there were none.",
    )
    latency_s: PercentilesBody = Field(description="Until the last byte.")
    time_to_first_token_s: PercentilesBody = Field(description="Of streams that began.")
    tokens: TokensBody
    cost_usd: float | None = Field(description="Of the requests with a known price; null when no price was known.")
    unpriced_requests: Count = Field(description="Requests that a provider answered at a price that is unknown.")
    usage_estimated_requests: Count = Field(description="Requests whose tokens were estimated.")
    usage_unknown_requests: Count = Field(description="Requests whose tokens are missing from the sums.")
    unparsable_answers: Count = Field(
        description="Requests with an answer that was not in its version's output format, delivered as it came."
    )
    retries: Count = Field(description="Further attempts on the same combination.")
    fallbacks: Count = Field(description="Moves to another combination.")


class TemplateFigures(FiguresBody):
    """One template's; null: requests without one."""

    template_id: str | None


class VersionFigures(FiguresBody):
    """One version's, of one template."""

    template_id: str | None
    version: int | None


class CombinationFigures(FiguresBody):
    """One combination's; null: requests that reached none."""

    combination_id: str | None
    template_id: str | None


class ModelFigures(FiguresBody):
    """One model's, at one provider."""

    provider: str | None
    model: str | None


class EndpointFigures(FiguresBody):
    """One endpoint's."""

    endpoint: str


class WindowBody(BaseModel):
    """One window. A request counts in the window in which it ended; each list begins with the most requests."""

    since: str | None = Field(description="Where it begins, on a whole minute (UTC); null: with the store.")
    overall: FiguresBody
    templates: list[TemplateFigures]
    versions: list[VersionFigures]
    combinations: list[CombinationFigures]
    models: list[ModelFigures]
    endpoints: list[EndpointFigures]


class AnalyticsBody(BaseModel):
    """Live figures, the same after a restart and from every worker."""

    as_of: str = Field(description="When they were read (UTC).")
    percentile_relative_error: float = Field(description="p50, p95 and p99 are at most this far off, relatively.")
    commit_lag_s: float = Field(description="Requests are counted in batches, up to this much after they ended.")
    waiting_requests: Count = Field(description="Records of the answering process that are not committed yet.")
    windows: dict[str, WindowBody] = Field(description="`5m`, `1h`, `24h`, `all`, or only the one that was asked for.")


class TemplateAnalyticsBody(AnalyticsBody):
    """Live figures of one template."""

    template_id: str


def figures_of(summary: object) -> dict[str, Any]:
    """A domain summary as the fields of `FiguresBody`."""
    return FiguresBody.model_validate(summary).model_dump()


def window_of(since_s: int | None, breakdown: Breakdown) -> WindowBody:
    """One window; `since_s` in seconds since the epoch, None for since the store began."""
    return WindowBody(
        since=None if since_s is None else utc(since_s),
        overall=FiguresBody.model_validate(breakdown.overall),
        templates=[
            TemplateFigures(template_id=template_id, **figures_of(summary))
            for (template_id,), summary in breakdown.templates
        ],
        versions=[
            VersionFigures(template_id=template_id, version=version, **figures_of(summary))
            for (template_id, version), summary in breakdown.versions
        ],
        combinations=[
            CombinationFigures(combination_id=combination_id, template_id=template_id, **figures_of(summary))
            for (combination_id, template_id), summary in breakdown.combinations
        ],
        models=[
            ModelFigures(provider=provider, model=model, **figures_of(summary))
            for (provider, model), summary in breakdown.models
        ],
        endpoints=[
            EndpointFigures(endpoint=endpoint, **figures_of(summary)) for (endpoint,), summary in breakdown.endpoints
        ],
    )


def utc(instant_s: float) -> str:
    """ISO 8601, to the second."""
    return datetime.fromtimestamp(instant_s, UTC).isoformat(timespec="seconds")
