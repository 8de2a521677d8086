"""What came back: telling a whole answer from a cut one, and keeping just enough of it for the trace."""

import msgspec

from rs_gateway.domain.chat import JsonObject, JsonValue
from rs_gateway.domain.traces import Usage, UsageSource

_CHARACTERS_PER_TOKEN = 4
"""OpenAI's rule of thumb for English; only ever used for counts that are marked as estimated."""
_MOST_TOKENS = 2**31
"""No context is nearly as long. Sums of counts below it stay exact, as floats too, and fit every store's columns."""


class WireUsage(msgspec.Struct):
    """`usage` as on the wire. A count that is none must not cost the client its answer, so nothing is demanded here."""

    prompt_tokens: JsonValue = None
    completion_tokens: JsonValue = None
    prompt_tokens_details: JsonValue = None
    completion_tokens_details: JsonValue = None
    cache_creation_input_tokens: JsonValue = None
    prompt_cache_hit_tokens: JsonValue = None

    @property
    def input_tokens(self) -> int | None:
        """Tokens of the request; None unless the provider counted them."""
        return token_count(self.prompt_tokens)

    @property
    def output_tokens(self) -> int | None:
        """Tokens of the answer; None unless the provider counted them."""
        return token_count(self.completion_tokens)

    @property
    def has_no_details(self) -> bool:
        """Whether the two totals are all there is."""
        return (
            self.prompt_tokens_details is None
            and self.completion_tokens_details is None
            and self.cache_creation_input_tokens is None
            and self.prompt_cache_hit_tokens is None
        )

    @property
    def cached_input_tokens(self) -> int | None:
        """Tokens of the request that came out of the provider's cache: OpenAI's spelling, then DeepSeek's."""
        details = self.prompt_tokens_details
        cached = token_count(details.get("cached_tokens")) if isinstance(details, dict) else None
        return cached if cached is not None else token_count(self.prompt_cache_hit_tokens)

    @property
    def cache_write_tokens(self) -> int | None:
        """Tokens of the request that went into its cache: as litellm reports Anthropic's, then OpenAI's spellings."""
        written = token_count(self.cache_creation_input_tokens)
        details = self.prompt_tokens_details
        if written is None and isinstance(details, dict):
            written = token_count(details.get("cache_creation_tokens"))
            return written if written is not None else token_count(details.get("cache_write_tokens"))
        return written

    @property
    def reasoning_tokens(self) -> int | None:
        """Tokens of the answer that the client does not see."""
        details = self.completion_tokens_details
        return token_count(details.get("reasoning_tokens")) if isinstance(details, dict) else None


class WireDelta(msgspec.Struct):
    """What one chunk adds. Content is text, null, or parts as some providers send them."""

    content: JsonValue = None
    refusal: JsonValue = None
    tool_calls: JsonValue = None
    reasoning_content: JsonValue = None


class WireChoice(msgspec.Struct):
    """One choice of a chunk."""

    index: int = 0
    delta: WireDelta | None = None
    finish_reason: str | None = None


class WireChunk(msgspec.Struct):
    """A `chat.completion.chunk`, as far as we look into it. Its bytes are what the client gets."""

    choices: list[WireChoice] | None = None
    usage: WireUsage | None = None
    model: str | None = None
    error: JsonValue = None
    id: JsonValue = None
    created: JsonValue = None


class WireMessageChoice(msgspec.Struct):
    """One choice of a whole completion."""

    message: JsonObject
    finish_reason: str | None = None


class WireCompletion(msgspec.Struct):
    """A `chat.completion`, as far as we look into it."""

    choices: list[WireMessageChoice]
    usage: WireUsage | None = None
    model: str | None = None


_chunk_decoder = msgspec.json.Decoder(WireChunk)
_completion_decoder = msgspec.json.Decoder(WireCompletion)


def decode_chunk(payload: bytes) -> WireChunk:
    """Raises msgspec.DecodeError when `payload` is no chunk."""
    return _chunk_decoder.decode(payload)


def decode_completion(body: bytes) -> WireCompletion:
    """Raises msgspec.DecodeError when `body` is no completion with at least one choice."""
    completion = _completion_decoder.decode(body)
    if not completion.choices:
        raise msgspec.ValidationError("a completion without choices")
    return completion


def counted_usage(wire: WireUsage | None) -> Usage | None:
    """The provider's counts; None where it did not count."""
    if wire is None or (input_tokens := wire.input_tokens) is None or (output_tokens := wire.output_tokens) is None:
        return None
    if wire.has_no_details:
        return Usage(input_tokens, output_tokens, UsageSource.PROVIDER)
    return Usage(
        input_tokens,
        output_tokens,
        UsageSource.PROVIDER,
        cached_input_tokens=wire.cached_input_tokens,
        reasoning_tokens=wire.reasoning_tokens,
        cache_write_tokens=wire.cache_write_tokens,
    )


def estimated_usage(*, input_characters: int, output_characters: int) -> Usage:
    """Counts from the length of the texts, marked as what they are."""
    return Usage(
        -(-input_characters // _CHARACTERS_PER_TOKEN),
        -(-output_characters // _CHARACTERS_PER_TOKEN),
        UsageSource.ESTIMATED,
    )


class StreamedAnswer:
    """Follows a stream chunk by chunk and says in the end whether it was whole.

    Attributes:
        finish_reason: of the first choice; None until it came.
        identity: id, created and model of the first chunk that has an id; all others must have the same.
        n_tool_calls: tool calls of the first choice that have begun.
    """

    def __init__(self) -> None:
        self.identity: tuple[JsonValue, JsonValue, str | None] | None = None
        self.n_tool_calls = 0
        self._n_unkept_characters = 0
        self.finish_reason: str | None = None
        self.usage: WireUsage | None = None
        self.model: str | None = None
        self._contents: list[str] = []
        self._refusals: list[str] = []
        self._tool_deltas: list[JsonObject] = []
        self._begun: set[int] = set()
        self._ended: set[int] = set()

    def add_text(self, chunk: WireChunk, payload: bytes) -> bool:
        """Take in a chunk that is one more piece of the only choice's text and nothing else, as nearly all are.

        Returns False, and takes in nothing, when it is another one or needs a closer look.
        """
        identity, choices = self.identity, chunk.choices
        if identity is None or choices is None or len(choices) != 1 or 0 not in self._begun:
            return False
        first = choices[0]
        delta = first.delta
        if (
            delta is None
            or type(delta.content) is not str
            or first.finish_reason is not None
            or first.index != 0
            or delta.refusal is not None
            or delta.tool_calls is not None
            or delta.reasoning_content is not None
            or chunk.id != identity[0]
            or chunk.created != identity[1]
            or chunk.model != identity[2]
            or chunk.usage is not None
            or chunk.error is not None
            or b'"role"' in payload
        ):
            return False
        self._contents.append(delta.content)
        return True

    def is_regular(self, chunk: WireChunk, payload: bytes) -> bool:
        """Whether the chunk may go to a client as it came; `domain/chunk_repair.py` mends those that may not.

        Clients add up roles, tell choices and calls apart by their index, and some demand `choices` in every chunk.
        """
        identity = self.identity
        if identity is not None and (
            chunk.id != identity[0] or chunk.created != identity[1] or chunk.model != identity[2]
        ):
            return False
        choices = chunk.choices
        if choices is None:
            return False
        if self._begun and b'"role"' in payload:
            return False
        return b'"tool_calls"' not in payload or all(_calls_are_numbered(choice.delta) for choice in choices)

    def add(self, chunk: WireChunk) -> None:
        """Take in one chunk."""
        if self.identity is None and chunk.id:
            self.identity = (chunk.id, chunk.created, chunk.model)
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.model is not None:
            self.model = chunk.model
        choices = chunk.choices
        if not choices:
            return
        for choice in choices:
            self._begun.add(choice.index)
            if choice.finish_reason is not None:
                self._ended.add(choice.index)
                if choice.index == 0:
                    self.finish_reason = choice.finish_reason
            delta = choice.delta
            if delta is None:
                continue
            self._n_unkept_characters += len(text_of(delta.reasoning_content))
            if choice.index != 0:
                self._n_unkept_characters += len(text_of(delta.content)) + len(text_of(delta.refusal))
                self._n_unkept_characters += _argument_characters(delta.tool_calls)
                continue
            self._contents.append(text_of(delta.content))
            self._refusals.append(text_of(delta.refusal))
            if isinstance(delta.tool_calls, list):
                deltas = [d for d in delta.tool_calls if isinstance(d, dict)]
                self._tool_deltas.extend(deltas)
                self._n_unkept_characters += _argument_characters(deltas)
                indices = [i for d in deltas if isinstance(i := d.get("index"), int)]
                self.n_tool_calls = max(self.n_tool_calls, *(i + 1 for i in indices)) if indices else self.n_tool_calls

    def has_begun_choice(self, index: int) -> bool:
        """Whether this choice has begun."""
        return index in self._begun

    @property
    def whole(self) -> bool:
        """Every choice that began has said why it ended."""
        return bool(self._begun) and self._begun == self._ended

    @property
    def output_characters(self) -> int:
        """Length of all that was generated so far: text, refusals, reasoning, arguments of calls, of every choice."""
        return sum(map(len, self._contents)) + sum(map(len, self._refusals)) + self._n_unkept_characters

    def message(self) -> JsonObject | None:
        """The assistant message as far as it came; None before the first choice."""
        if not self._begun:
            return None
        message: JsonObject = {"role": "assistant", "content": "".join(self._contents) or None}
        if any(self._refusals):
            message["refusal"] = "".join(self._refusals)
        if self._tool_deltas:
            message["tool_calls"] = _join_tool_calls(self._tool_deltas)
        return message


def token_count(value: JsonValue) -> int | None:
    """What a provider says that it counted; None where that is no number of tokens that one answer can have."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS else None


def text_of(content: JsonValue) -> str:
    """The text of a message's content: itself, or that of its parts; empty for anything else."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def generated_characters(message: JsonObject) -> int:
    """Length of all that was generated for a whole message."""
    texts = (message.get("content"), message.get("refusal"), message.get("reasoning_content"))
    return sum(len(text_of(text)) for text in texts) + _argument_characters(message.get("tool_calls"))


def _argument_characters(calls: JsonValue) -> int:
    """Length of the functions' names and arguments in tool calls, or in pieces of them."""
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return sum(
        len(value)
        for function in functions
        if isinstance(function, dict)
        for value in (function.get("name"), function.get("arguments"))
        if isinstance(value, str)
    )


def _calls_are_numbered(delta: WireDelta | None) -> bool:
    calls = delta.tool_calls if delta is not None else None
    return not isinstance(calls, list) or all(not isinstance(call, dict) or "index" in call for call in calls)


def _join_tool_calls(deltas: list[JsonObject]) -> list[JsonObject]:
    """The calls that the deltas add up to. Whatever a provider sends, this describes it and never fails."""
    calls: dict[str, JsonObject] = {}
    for delta in deltas:
        call = calls.setdefault(str(delta.get("index") or 0), {"function": {"name": "", "arguments": ""}})
        function = delta.get("function")
        if isinstance(function, dict):
            call["function"]["name"] = function.get("name") or call["function"]["name"]
            arguments = function.get("arguments")
            call["function"]["arguments"] += arguments if isinstance(arguments, str) else _json_text(arguments)
        call.update({k: v for k, v in delta.items() if k not in ("index", "function") and v is not None})
    return list(calls.values())


def _json_text(value: JsonValue) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()
