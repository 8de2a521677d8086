"""Every provider that does not speak OpenAI's protocol, through litellm: the only door to it.

`import litellm` takes seconds and some 180 MB, so it happens when such a provider is first called, in a thread.
"""

import functools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread

from rs_gateway.domain.chat import JsonObject, ProviderCall
from rs_gateway.domain.errors import (
    ProviderCutError,
    ProviderError,
    ProviderOverloadedError,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnreachableError,
)

_LITELLM_NAMES = {"google": "gemini"}


@functools.cache
def _litellm() -> Any:
    # Without this the import itself fetches a price list from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.telemetry = False  # pyright: ignore[reportAttributeAccessIssue]  # set, not declared, there
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    return litellm


class LiteLLMChat:
    """ChatProvider over litellm."""

    def __init__(self, name: str, *, base_url: str | None, api_key: str | None) -> None:
        self._name = name
        self._base_url = base_url
        self._api_key = api_key

    async def complete(self, call: ProviderCall) -> bytes:
        answer = await self._call(call, stream=False)
        return answer.model_dump_json(exclude_none=True).encode()

    @asynccontextmanager
    async def stream(self, call: ProviderCall) -> AsyncGenerator[AsyncIterator[Sequence[bytes]]]:
        answer = await self._call(call, stream=True)
        try:
            yield self._payloads(answer)
        finally:
            close = getattr(answer, "aclose", None)
            if close is not None:
                await close()

    async def aclose(self) -> None:
        """Close the clients that litellm keeps; they are shared by all of its providers, which end together."""
        if _litellm.cache_info().currsize:
            await _litellm().close_litellm_async_clients()

    async def _payloads(self, answer: Any) -> AsyncIterator[Sequence[bytes]]:
        try:
            async for chunk in answer:
                # litellm makes up a finish_reason when a stream ends without one; only the provider's own counts.
                if any(c.finish_reason for c in chunk.choices) and answer.received_finish_reason is None:
                    raise ProviderCutError(f"{self._name} broke off in the middle of an answer.", provider=self._name)
                yield [chunk.model_dump_json(exclude_none=True).encode()]
        except ProviderError:
            raise
        except Exception as error:
            raise ProviderCutError(
                f"{self._name} broke off in the middle of an answer ({type(error).__name__}).", provider=self._name
            ) from error

    async def _call(self, call: ProviderCall, *, stream: bool) -> Any:
        litellm = await anyio.to_thread.run_sync(_litellm)
        prefix = _LITELLM_NAMES.get(self._name, self._name)
        arguments: JsonObject = {
            **call.parameters,
            "model": call.model if "/" in call.model else f"{prefix}/{call.model}",
            "messages": list(call.messages),
            "timeout": call.timeout_s,
            "max_retries": 0,
            "api_key": self._api_key,
            "stream": stream,
        }
        if self._base_url is not None:
            arguments["api_base"] = self._base_url
        if stream:
            arguments["stream_options"] = {"include_usage": True}
        try:
            return await litellm.acompletion(**arguments)
        except Exception as error:  # litellm raises some forty kinds; their status decides what they mean
            raise self._translate(litellm, error) from error

    def _translate(self, litellm: Any, error: Exception) -> ProviderError:
        status = getattr(error, "status_code", None)
        status = status if isinstance(status, int) else None
        words = str(getattr(error, "message", "") or error).split("\n", 1)[0][:500]
        if self._api_key:
            words = words.replace(self._api_key, "***")
        if isinstance(error, litellm.exceptions.Timeout):
            return ProviderTimeoutError(f"{self._name} did not answer in time.", provider=self._name)
        if isinstance(error, litellm.exceptions.APIConnectionError):
            return ProviderUnreachableError(f"{self._name} cannot be reached: {words}", provider=self._name)
        if status is not None and 400 <= status < 500 and status not in (408, 409, 429):
            return ProviderRefusedError(f"{self._name}: {words}", provider=self._name, status=status)
        return ProviderOverloadedError(f"{self._name}: {words}", provider=self._name, status=status)
