"""Does every model answer? One short question to each."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import (
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnreachableError,
    RouteSwitchError,
)
from rs_gateway.domain.ports import ChatProvider

if TYPE_CHECKING:
    from rs_gateway.settings import Settings

_QUESTION = ({"role": "user", "content": "Answer with the word OK."},)
_LIMITS = ("max_tokens", "max_completion_tokens")
_TIMEOUT_S = 60.0
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Question:
    """Whom to ask; `parameters` only bound the answer."""

    provider: str
    model: str
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of a question; `error` is None when there was an answer."""

    provider: str
    model: str
    latency_s: float
    error: str | None


def questions_of(settings: "Settings") -> list[Question]:
    """Each model of an enabled combination once, and the first listed model of providers that have none."""
    from rs_gateway.wiring import combinations_of

    found: dict[tuple[str, str], Question] = {}
    for c in combinations_of(settings):
        if c.enabled:
            found.setdefault((c.provider, c.model), Question(c.provider, c.model, _limits(c.parameters)))
    asked = {question.provider for question in found.values()}
    for name, provider in settings.model_providers.items():
        if name not in asked and provider.models:
            found[name, provider.models[0]] = Question(name, provider.models[0], _limits(provider.options))
    return list(found.values())


def _limits(parameters: Mapping[str, object]) -> dict[str, object]:
    return {name: parameters[name] for name in _LIMITS if name in parameters}


async def probe_all(
    questions: Sequence[Question],
    providers: Callable[[], Mapping[str, ChatProvider]],
    settings: "Settings",
    *,
    on_answer: Callable[[int, int], None] = lambda done, total: None,
) -> list[Probe]:
    """Ask all of them, some at once; the probes come in the order of the questions.

    Args:
        providers: makes the adapters, inside the event loop; they are closed at the end.
        settings: to say what to do about an error.
    """
    opened = providers()
    found: dict[int, Probe] = {}
    places = anyio.CapacityLimiter(_AT_ONCE)

    async def ask(position: int, question: Question) -> None:
        async with places:
            found[position] = await _probe(opened[question.provider], question, settings)
        on_answer(len(found), len(questions))

    try:
        async with anyio.create_task_group() as group:
            for position, question in enumerate(questions):
                group.start_soon(ask, position, question)
    finally:
        for provider in opened.values():
            await provider.aclose()
    return [found[position] for position in range(len(questions))]


async def _probe(provider: ChatProvider, question: Question, settings: "Settings") -> Probe:
    began, error = time.monotonic(), None
    try:
        call = ProviderCall(question.model, _QUESTION, dict(question.parameters), _TIMEOUT_S)
        body = await provider.complete(call)
        error = None if _has_choices(body) else "the answer is no chat completion"
    except RouteSwitchError as refused:
        error = f"{str(refused).rstrip('.')}. {_remedy(refused, question.provider, settings)}".rstrip()
    return Probe(question.provider, question.model, time.monotonic() - began, error)


def _remedy(error: RouteSwitchError, name: str, settings: "Settings") -> str:
    """What to do about an error of the provider `name`; empty where its own words have to do."""
    from rs_gateway.settings import key_variables

    place = f"model_providers.{name}"
    provider = settings.model_providers[name]
    match error:
        case ProviderUnreachableError() | ProviderTimeoutError():
            if provider.base_url is None:
                return "See that this machine reaches the internet."
            return f"See that it runs and is reached from here at {place}.base_url."
        case ProviderRefusedError(status=401 | 403):
            if provider.api_key is not None:
                return f"Set the variable that {place}.api_key names to a valid key."
            return f"Set {' or '.join(reversed(key_variables(name)))} to a valid key."
        case ProviderRefusedError(status=404):
            return f"See that it has this model, and that {place}.base_url is right."
        case _:
            return ""


def _has_choices(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and bool(answer.get("choices"))
