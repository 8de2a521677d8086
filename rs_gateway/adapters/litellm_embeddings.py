"""Embeddings of providers that have an API of their own for them, through litellm."""

import asyncio
import base64
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import msgspec

from rs_gateway.adapters.litellm_chat import load_litellm, only_to_connect
from rs_gateway.adapters.litellm_errors import translate
from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.endpoints import EndpointCall, Event
from rs_gateway.domain.errors import InvalidRequestError

_FIELDS = frozenset({"input", "dimensions", "encoding_format", "user"})
"""What litellm knows how to translate. Its function takes many more arguments, among them ones that choose a host."""


class LiteLLMEmbeddings:
    """EndpointProvider of embeddings alone.

    Args:
        vendor: litellm's name for the provider.
    """

    def __init__(
        self, name: str, *, vendor: str, base_url: str | None, api_key: str | None, connect_timeout_s: float = 5.0
    ) -> None:
        self._name, self._vendor, self._base_url, self._api_key = name, vendor, base_url, api_key
        self._connect_timeout_s = connect_timeout_s

    async def ask(self, call: EndpointCall) -> bytes:
        for name in call.request.fields:
            if name not in _FIELDS:
                raise InvalidRequestError(
                    f"`{name[:100]}` cannot be translated for {self._name}: leave it out.", param=name[:100]
                )
        if not call.request.fields.get("input"):
            raise InvalidRequestError("`input` is missing or empty.", param="input")
        litellm = await anyio.to_thread.run_sync(load_litellm)
        fields = {name: value for name, value in call.body.items() if value is not None}
        encoding = fields.pop("encoding_format", "float")
        arguments: JsonObject = {
            **fields,
            "model": f"{self._vendor}/{call.model.removeprefix(self._vendor + '/')}",
            "timeout": only_to_connect(self._connect_timeout_s),
            "max_retries": 0,
            "api_key": self._api_key,
        }
        if self._base_url is not None:
            arguments["api_base"] = self._base_url
        try:
            async with asyncio.timeout(call.timeout_s):
                answer = await litellm.aembedding(**arguments)
        except Exception as error:  # litellm raises some forty kinds
            raise translate(error, name=self._name, secret=self._api_key) from error
        body = answer.model_dump(mode="json", exclude_none=True)
        if encoding == "base64":
            _encode_vectors(body)
        return msgspec.json.encode(body)

    @asynccontextmanager
    async def stream(self, call: EndpointCall) -> AsyncGenerator[AsyncIterator[Sequence[Event]]]:
        raise InvalidRequestError("There are no streams of embeddings.", param="stream")
        yield

    async def aclose(self) -> None:
        """Nothing to do: litellm's clients are closed with `LiteLLMChat`."""


def _encode_vectors(body: JsonObject) -> None:
    """Put the vectors into base64, as OpenAI does: little-endian 32-bit floats."""
    items: list[Any] = body.get("data") or []
    for item in items:
        vector = item.get("embedding")
        if isinstance(vector, list):
            item["embedding"] = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
