"""What one run may ask for beyond the configuration."""

from dataclasses import dataclass
from typing import Literal

from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.pipeline_sections import MOST_SEED
from rs_gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Effort:
    """What one run may override of `mipro_v2`, and of the template its evaluator; None leaves it as configured.

    Attributes:
        evaluator: `{"name": ..., options}`, for search and comparison alike.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    mode: Literal["light", "medium", "heavy"] | None = None
    num_trials: int | None = None
    max_calls: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    prompt_model: str | None = None
    evaluator: JsonObject | None = None

    def __post_init__(self) -> None:
        for name in ("num_trials", "max_calls", "max_tokens"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ConfigurationError(f"{name} is {number}: it is at least 1; null leaves it as configured.")
        if self.max_cost_usd is not None and not self.max_cost_usd > 0:
            raise ConfigurationError(
                f"max_cost_usd is {self.max_cost_usd}: it is over 0; null leaves it as configured."
            )
        if self.seed is not None and not 0 <= self.seed <= MOST_SEED:
            raise ConfigurationError(f"seed is {self.seed}: it is 0 to {MOST_SEED}; null leaves it as configured.")

    def applied_to(self, settings: Settings) -> Settings:
        """The settings as this run is to see them. The seed is the plan's alone: it decides no answer of a model."""
        names = ("mode", "num_trials", "max_calls", "max_tokens", "max_cost_usd", "prompt_model")
        changed = {name: value for name in names if (value := getattr(self, name)) is not None}
        return settings.model_copy(update={"mipro_v2": settings.mipro_v2.model_copy(update=changed)})
