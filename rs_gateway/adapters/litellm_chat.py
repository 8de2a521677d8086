"""Every provider that does not speak OpenAI's protocol, through litellm: the only door to it.

`import litellm` takes seconds and some 180 MB, so it happens when such a provider is first called, in a thread.
"""

import asyncio
import functools
import os
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from rs_gateway.adapters.cohere_stream import cohere_chunks, whole_answer
from rs_gateway.adapters.litellm_errors import translate
from rs_gateway.adapters.litellm_media import refuse_addresses
from rs_gateway.adapters.litellm_parameters import forwardable, forwarded
from rs_gateway.adapters.vendor_lines import ENDINGS, VendorLines
from rs_gateway.domain.chat import JsonObject, ProviderCall
from rs_gateway.domain.errors import ProviderCutError, ProviderError, ProviderTimeoutError

_LITELLM_NAMES = {"google": "gemini", "cohere": "cohere_chat"}
_OVER_HTTPX = frozenset({"anthropic", "cohere_chat"})
"""Vendors that litellm calls over httpx, without knowing that their calls take all of its timeouts."""
_OVER_A_LENT_CLIENT = frozenset({"gemini"})
"""Vendors where it looks at no timeout, but at that of the client which it is given."""
_MORE_THAN_ANY_STREAM = 1_000_000_000


_loading = threading.Lock()


def load_litellm() -> Any:
    """litellm, set up. Takes seconds once, and whoever comes meanwhile waits as well: call it in a thread."""
    with _loading:
        return _load_litellm()


@functools.cache
def _load_litellm() -> Any:
    # Without these the import itself fetches a price list from the network, and the first call of Anthropic a list of
    # its headers, and a .env of the working directory is read.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    # `refuse_addresses` keeps addresses from it. Should one get through, litellm downloads nothing at this size.
    os.environ["MAX_IMAGE_URL_DOWNLOAD_SIZE_MB"] = "0"
    import litellm

    litellm.telemetry = False  # pyright: ignore[reportAttributeAccessIssue]  # set, not declared, there
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    # It would end an answer that says the same thing a hundred times, such as a table.
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = _MORE_THAN_ANY_STREAM  # pyright: ignore[reportPrivateImportUsage]
    _teach_timeouts(litellm.main)
    return litellm


def _teach_timeouts(calls: Any) -> None:
    """Have litellm leave our timeout as it is, where it would make one number of it."""
    knows: Callable[[str], bool] = calls.supports_httpx_timeout

    def supports_httpx_timeout(custom_llm_provider: str) -> bool:
        return custom_llm_provider in _OVER_HTTPX or knows(custom_llm_provider)

    calls.supports_httpx_timeout = supports_httpx_timeout


def only_to_connect(timeout_s: float) -> Any:
    """A timeout for litellm's calls that limits the connection alone: the rest of a call is limited here.

    It is always the same one, since litellm keeps a client of its own for every timeout that it is given.
    """
    import httpx  # litellm has loaded it

    return httpx.Timeout(None, connect=timeout_s)


_open: "weakref.WeakSet[LiteLLMChat]" = weakref.WeakSet()


class LiteLLMChat:
    """ChatProvider over litellm.

    Args:
        name: a vendor that litellm knows (`anthropic`, `google`, `cohere` ...), or any name, where the models carry the
            vendor's (`bedrock/amazon.nova-lite-v1:0`).
        base_url: the root of the vendor's API, where it is not the public one.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None,
        api_key: str | None,
        connect_timeout_s: float = 5.0,
        first_byte_timeout_s: float = 60.0,
        idle_timeout_s: float = 30.0,
    ) -> None:
        self._name = name
        self._vendor = _LITELLM_NAMES.get(name, name)
        self._base_url = base_url
        self._api_key = api_key
        self._connect_timeout_s = connect_timeout_s
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._client: Any = None
        self._known: dict[str, frozenset[str]] = {}
        _open.add(self)

    async def complete(self, call: ProviderCall) -> bytes:
        litellm = await anyio.to_thread.run_sync(load_litellm)
        arguments = self._arguments(litellm, call)
        try:
            async with asyncio.timeout(call.timeout_s):
                if arguments["model"].startswith("cohere_chat/"):
                    # Asked for a whole answer, litellm says "stop" whatever Cohere said: a cut one would pass as whole.
                    async with self.stream(call) as chunks:
                        return await whole_answer(chunks)
                answer = await litellm.acompletion(**arguments, stream=False)
        except Exception as error:
            raise self._translate(error) from error
        return msgspec.json.encode(_completion(answer.model_dump(exclude_none=True), self._vendor), enc_hook=str)

    @asynccontextmanager
    async def stream(self, call: ProviderCall) -> AsyncGenerator[AsyncIterator[Sequence[bytes]]]:
        litellm = await anyio.to_thread.run_sync(load_litellm)
        arguments = self._arguments(litellm, call)
        first_byte_by = asyncio.get_running_loop().time() + min(self._first_byte_timeout_s, call.timeout_s)
        opened: list[Any] = []
        try:
            try:
                async with asyncio.timeout_at(first_byte_by):
                    answer: Any = await litellm.acompletion(
                        **arguments, stream=True, stream_options={"include_usage": True}
                    )
                    opened.append(answer)
                    # Where the vendor counts no tokens, litellm would: it downloads images to measure them.
                    answer.messages = None
                    if answer.completion_stream is None:
                        await answer.fetch_stream()
            except Exception as error:
                raise self._translate(error) from error
            vendor = arguments["model"].partition("/")[0]
            source = getattr(answer.completion_stream, "streaming_response", None)
            opened.append(source)
            if vendor not in ENDINGS or source is None:
                yield self._unwatched(answer, first_byte_by)
                return
            lines = VendorLines(
                source,
                name=self._name,
                vendor=vendor,
                first_byte_by=first_byte_by,
                idle_timeout_s=self._idle_timeout_s,
            )
            if vendor == "cohere_chat":
                yield self._cohere(lines, call.model)
            else:
                stream: Any = answer.completion_stream
                stream.streaming_response = lines
                yield self._watched(answer, lines, vendor)
        finally:
            with anyio.CancelScope(shield=True):
                for each in opened:
                    if hasattr(each, "aclose"):
                        await each.aclose()

    async def aclose(self) -> None:
        """Close the client that was lent; the last provider also closes those that litellm keeps for all of them."""
        if self._client is not None:
            await self._client.close()
        _open.discard(self)
        if not _open and _load_litellm.cache_info().currsize:
            await load_litellm().close_litellm_async_clients()

    async def _watched(self, answer: Any, lines: VendorLines, vendor: str) -> AsyncIterator[Sequence[bytes]]:
        """What litellm makes of lines that we watch."""
        try:
            async for chunk in answer:
                yield [_chunk(chunk, vendor)]
        except Exception as error:
            raise lines.failure or self._cut(error) from error

    async def _cohere(self, lines: VendorLines, model: str) -> AsyncIterator[Sequence[bytes]]:
        """Cohere's stream, which litellm reads in a format that Cohere does not send."""
        try:
            async for chunk in cohere_chunks(lines, name=self._name, model=model, created=int(time.time())):
                yield [chunk]
        except ProviderError:
            raise
        except Exception as error:
            raise self._cut(error) from error

    async def _unwatched(self, answer: Any, first_byte_by: float) -> AsyncIterator[Sequence[bytes]]:
        """A vendor whose lines we cannot see: timeouts count chunks, and litellm is asked whether the end was real."""
        loop = asyncio.get_running_loop()
        deadline = first_byte_by
        begun = False
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(answer, None)
                if chunk is None:
                    return
                finished = any(c.finish_reason for c in chunk.choices)
                # litellm makes up a finish_reason when a stream ends without one; only the provider's own counts.
                if finished and not (answer.received_finish_reason or answer.intermittent_finish_reason):
                    raise self._cut(None)
                yield [_chunk(chunk, "")]
                begun, deadline = True, loop.time() + self._idle_timeout_s
        except ProviderError:
            raise
        except TimeoutError as error:
            words = "fell silent in the middle of an answer" if begun else "did not answer in time"
            raise ProviderTimeoutError(f"{self._name} {words}.", provider=self._name) from error
        except Exception as error:
            raise self._cut(error) from error

    def _arguments(self, litellm: Any, call: ProviderCall) -> JsonObject:
        """Raises ProviderRefusedError for a parameter or an address that would not reach the provider."""
        model = self._model(litellm, call.model)
        vendor, _, bare = model.partition("/")
        refuse_addresses(call.messages, vendor=vendor, name=self._name)
        known = self._known.get(model)
        if known is None:
            names = litellm.get_supported_openai_params(model=bare, custom_llm_provider=vendor)
            known = self._known[model] = forwardable(vendor, names)
        parameters = forwarded(call.parameters, known=known, name=self._name)
        arguments: JsonObject = {
            **parameters,
            "model": model,
            "messages": list(call.messages),
            "timeout": only_to_connect(self._connect_timeout_s),
            "max_retries": 0,
            "num_retries": 0,
            "api_key": self._api_key,
            # Without it every call with tools imports litellm's own gateway and a package that is not there.
            "_skip_mcp_handler": True,
        }
        if vendor in _OVER_A_LENT_CLIENT:
            if self._client is None:
                self._client = litellm.AsyncHTTPHandler(timeout=only_to_connect(self._connect_timeout_s))
            arguments["client"] = self._client
        if self._base_url is not None:
            arguments["api_base"] = _address(self._base_url, self._vendor)
        return arguments

    def _model(self, litellm: Any, model: str) -> str:
        """The model as litellm is told it, with its vendor in front."""
        if self._vendor not in litellm.provider_list or model.startswith(f"{self._vendor}/"):
            return model
        return f"{self._vendor}/{model.removeprefix(self._name + '/')}"

    def _translate(self, error: Exception) -> ProviderError:
        return error if isinstance(error, ProviderError) else translate(error, name=self._name, secret=self._api_key)

    def _cut(self, error: Exception | None) -> ProviderError:
        why = f" ({type(error).__name__})" if error is not None else ""
        return ProviderCutError(f"{self._name} broke off in the middle of an answer{why}.", provider=self._name)


def _address(base_url: str, vendor: str) -> str:
    """litellm wants Cohere's whole path, and the root of everybody else."""
    root = base_url.rstrip("/")
    return root + "/v2/chat" if vendor == "cohere_chat" and not root.endswith("/chat") else root


def _chunk(chunk: Any, vendor: str) -> bytes:
    """One chunk in OpenAI's shape, as far as litellm's is not."""
    value: JsonObject = chunk.model_dump(exclude_none=True)
    usage = value.pop("usage", None)
    if usage is not None and (counted := _counted(usage, vendor)) is not None:
        value["choices"], value["usage"] = [], counted
    for choice in value["choices"]:
        choice.setdefault("finish_reason", None)
    return msgspec.json.encode(value, enc_hook=str)


def _completion(value: JsonObject, vendor: str) -> JsonObject:
    """A completion in OpenAI's shape, as far as litellm's is not."""
    usage = value.pop("usage", None)
    if usage is not None and (counted := _counted(usage, vendor)) is not None:
        value["usage"] = counted
    for choice in value["choices"]:
        choice["message"].setdefault("content", None)
        for tool_call in choice["message"].get("tool_calls") or ():
            tool_call.pop("index", None)  # belongs to streams, and counts text blocks too
    return value


def _counted(usage: JsonObject, vendor: str) -> JsonObject | None:
    """What the vendor counted, without what litellm adds to it; None when it counted nothing."""
    if not usage.get("prompt_tokens"):
        return None  # no request is empty: litellm writes 0 where it was told nothing
    usage.pop("cost", None)
    if vendor == "anthropic":
        usage.pop("completion_tokens_details", None)  # litellm's guess; Anthropic does not count reasoning apart
    return usage
