"""Client keys: who may ask for what, and how much."""

from typing import Protocol

from rs_gateway.domain.traces import StoreMode


class Admission(Protocol):
    """One request that was let in. Ask `check` once its target is known; call `settle` exactly once, at the end."""

    @property
    def key_id(self) -> str | None:
        """The key's public id; None when no key is needed."""
        ...

    @property
    def store(self) -> StoreMode | None:
        """How much the key lets us keep of its requests; None when the key does not say."""
        ...

    def check(self, *, template_id: str | None, model: str) -> None:
        """Raises ForbiddenError: the key's scopes do not cover this template or model."""
        ...

    def settle(self, *, tokens: int, cost_usd: float | None) -> None:
        """Count what the request used, and free its place."""
        ...


class OpenAdmission:
    """Everybody may do everything: what a gateway without client keys hands out."""

    key_id = None
    store = None

    def check(self, *, template_id: str | None, model: str) -> None:
        """See Admission."""

    def settle(self, *, tokens: int, cost_usd: float | None) -> None:
        """See Admission."""


OPEN = OpenAdmission()
