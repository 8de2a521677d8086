"""What one run may ask for beyond the configuration."""

from dataclasses import dataclass
from typing import Literal

from rs_gateway.domain.chat import JsonObject
from rs_gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Effort:
    """What one run may override of `mipro_v2`, and of the template its evaluator; None leaves it as configured.

    Attributes:
        evaluator: `{"name": ..., options}`, for search and comparison alike.
    """

    mode: Literal["light", "medium", "heavy"] | None = None
    num_trials: int | None = None
    max_calls: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    prompt_model: str | None = None
    evaluator: JsonObject | None = None

    def applied_to(self, settings: Settings) -> Settings:
        """The settings as this run is to see them. The seed is the plan's alone: it decides no answer of a model."""
        names = ("mode", "num_trials", "max_calls", "max_tokens", "max_cost_usd", "prompt_model")
        changed = {name: value for name in names if (value := getattr(self, name)) is not None}
        return settings.model_copy(update={"mipro_v2": settings.mipro_v2.model_copy(update=changed)})
