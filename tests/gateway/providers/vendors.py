"""One description a vendor, so that one suite holds all of them to the same promises."""

from collections.abc import Callable
from dataclasses import dataclass

from rs_gateway.adapters.litellm_chat import LiteLLMChat
from rs_gateway.adapters.openai_http import OpenAIHttp
from rs_gateway.domain.ports import ChatProvider
from tests.gateway.providers import anthropic_wire, cohere_wire, gemini_wire, openai_wire
from tests.gateway.providers.vendor import JsonDict, Vendor

SECRET = "sk-very-secret"


@dataclass(frozen=True)
class Wire:
    """What one vendor sends.

    Attributes:
        provider, model: as in the configuration; root: path of the API below the vendor's host.
        direct: whether it is spoken to without litellm.
        whole: "Paris is lovely" in one piece, 12 tokens in and 4 out; None where the vendor is only asked for streams.
        stream: the same as a stream; opening: its events up to and with the first words, which are "Paris ".
        truncated: a stream that says that the token limit cut it.
        calls, streamed_calls: two calls of `weather`, for Paris and for Rome.
        error: an error body with these words.
    """

    provider: str
    model: str
    root: str
    direct: bool
    whole: JsonDict | None
    stream: list[bytes]
    opening: list[bytes]
    truncated: list[bytes]
    calls: JsonDict | None
    streamed_calls: list[bytes]
    error: Callable[[int, str], JsonDict]

    def adapter(
        self, vendor: Vendor, *, first_byte_timeout_s: float = 10.0, idle_timeout_s: float = 5.0
    ) -> ChatProvider:
        """The adapter that the wiring would choose."""
        if not self.direct:
            return LiteLLMChat(
                self.provider,
                base_url=vendor.url + self.root,
                api_key=SECRET,
                first_byte_timeout_s=first_byte_timeout_s,
                idle_timeout_s=idle_timeout_s,
            )
        return OpenAIHttp(
            self.provider,
            base_url=vendor.url + self.root,
            api_key=SECRET,
            connect_timeout_s=5.0,
            first_byte_timeout_s=first_byte_timeout_s,
            idle_timeout_s=idle_timeout_s,
        )


_a, _g, _c, _o = anthropic_wire, gemini_wire, cohere_wire, openai_wire
_PARIS, _ROME = {"city": "Paris"}, {"city": "Rome"}
_FINISHED_A = _a.message(_a.text("Paris is lovely"))
ANTHROPIC = Wire(
    provider="anthropic",
    model=_a.MODEL,
    root="",
    direct=False,
    whole=_FINISHED_A,
    stream=[_a.started(), _a.PING, *_a.text_block(0, "Paris ", "is lovely"), *_a.ended()],
    opening=[_a.started(), *_a.text_block(0, "Paris ")[:2]],
    truncated=[_a.started(), *_a.text_block(0, "Paris "), *_a.ended("max_tokens")],
    calls=_a.message(
        _a.text("Let me see."),
        _a.tool_use("weather", _PARIS, tool_id="toolu_1"),
        _a.tool_use("weather", _ROME, tool_id="toolu_2"),
        stop_reason="tool_use",
    ),
    streamed_calls=[
        _a.started(),
        *_a.text_block(0, "Let me see."),
        *_a.tool_block(1, "weather", "toolu_1", "", '{"city":', ' "Paris"}'),
        *_a.tool_block(2, "weather", "toolu_2", "", '{"city": "Ro', 'me"}'),
        *_a.ended("tool_use"),
    ],
    error=lambda status, words: _a.error(_a.ERROR_TYPES.get(status, "api_error"), words),
)
GEMINI = Wire(
    provider="google",
    model=_g.MODEL,
    root="/v1beta",
    direct=False,
    whole=_g.answer(_g.text("Paris is lovely")),
    stream=_g.events(_g.answer(_g.text("Paris "), finish=None), _g.answer(_g.text("is lovely"))),
    opening=_g.events(_g.answer(_g.text("Paris "), finish=None)),
    truncated=_g.events(_g.answer(_g.text("Paris "), finish=None), _g.answer(_g.text("is"), finish="MAX_TOKENS")),
    calls=_g.answer(_g.function_call("weather", _PARIS), _g.function_call("weather", _ROME)),
    streamed_calls=_g.events(
        _g.answer(_g.function_call("weather", _PARIS), finish=None), _g.answer(_g.function_call("weather", _ROME))
    ),
    error=lambda status, words: _g.error(status, _g.ERROR_STATUSES.get(status, "UNKNOWN"), words),
)
COHERE = Wire(
    provider="cohere",
    model=_c.MODEL,
    root="",
    direct=False,
    whole=None,
    stream=[_c.STARTED, *_c.text_block("Paris ", "is lovely"), *_c.ended()],
    opening=[_c.STARTED, *_c.text_block("Paris ")[:2]],
    truncated=[_c.STARTED, *_c.text_block("Paris "), *_c.ended("MAX_TOKENS")],
    calls=None,
    streamed_calls=[
        _c.STARTED,
        *_c.tool_plan("I will ", "look."),
        *_c.tool_block(0, "weather", "weather_1", '{"city":', ' "Paris"}'),
        *_c.tool_block(1, "weather", "weather_2", '{"city":', ' "Rome"}'),
        *_c.ended("TOOL_CALL"),
    ],
    error=lambda status, words: _c.error(words),
)


def _openai_like(provider: str, model: str, quirks: openai_wire.Quirks) -> Wire:
    return Wire(
        provider=provider,
        model=model,
        root="/v1",
        direct=True,
        whole=_o.answer(model, "Paris is lovely", quirks),
        stream=_o.stream(model, ["Paris ", "is lovely"], quirks),
        opening=_o.stream(model, ["Paris ", "is lovely"], quirks)[: quirks.n_opening],
        truncated=_o.stream(model, ["Paris "], quirks, finish_reason="length"),
        calls=_o.calls(model, quirks, _PARIS, _ROME),
        streamed_calls=_o.streamed_calls(model, quirks, _PARIS, _ROME),
        error=quirks.error,
    )


MISTRAL = _openai_like("mistral", "mistral-large-latest", _o.MISTRAL)
OLLAMA = _openai_like("ollama", "llama3.2", _o.OLLAMA)
ALL = (ANTHROPIC, GEMINI, COHERE, MISTRAL, OLLAMA)
