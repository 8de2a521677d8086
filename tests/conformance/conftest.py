"""One gateway a file of tests, in front of an upstream that speaks exactly OpenAI's shapes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conformance.scripted_model import MODELS, speaks
from tests.running import RunningGateway, register, running_gateway
from tests.upstream import Upstream


@dataclass
class Stage:
    """A gateway and the upstream behind it."""

    gateway: RunningGateway
    upstream: Upstream

    @property
    def base_url(self) -> str:
        return f"{self.gateway.url}/v1"

    @property
    def asked(self) -> dict[str, Any]:
        """The last request body that the upstream got."""
        return self.upstream.requests[-1]


def configuration(upstream: Upstream) -> dict[str, Any]:
    """Every model passed through, a template on `gpt-4`, and no retries: those are for the client to show."""
    return {
        "model_providers": {
            "scripted": {"base_url": upstream.base_url, "kind": "openai_compatible", "models": MODELS},
        },
        "gateway": {
            "combinations": [
                {"id": "support-main", "template_id": "support", "model": "gpt-4", "provider": "scripted"},
            ],
        },
        "api": {"timeout_seconds": 60, "max_retries": 0},
    }


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("conformance")
    register(folder)
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith(("RS_", "ROUTE_SWITCH_")) or name.endswith("_API_KEY"):
                environment.delenv(name)
        with (
            Upstream([speaks()]).running() as upstream,
            running_gateway(folder, configuration(upstream)) as gateway,
        ):
            yield Stage(gateway, upstream)
