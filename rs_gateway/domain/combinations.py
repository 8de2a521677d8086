"""A combination: one template on one model of one provider."""

from dataclasses import dataclass, field

from rs_gateway.domain.chat import JsonObject


@dataclass(frozen=True, slots=True)
class Combination:
    """Template x model, as the configuration declares it; the registry says which version it serves.

    Attributes:
        weight: >= 0; 0 keeps it out of the draw but available as a fallback.
        fallbacks: combination ids of the same template, tried in order; empty means every other one of the pool.
        metadata: the owner's own notes; shown, never sent.
        parameters: defaults merged under the request's own parameters (`temperature`, `max_tokens` ...).
    """

    combination_id: str
    template_id: str | None
    model: str
    provider: str
    name: str = ""
    weight: float = 1.0
    fallbacks: tuple[str, ...] = ()
    parameters: JsonObject = field(default_factory=JsonObject)
    enabled: bool = True
    metadata: JsonObject = field(default_factory=JsonObject)
