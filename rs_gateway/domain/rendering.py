"""What a provider is sent for a version: the one rendering that serving and optimising share."""

from collections.abc import Mapping, Sequence

from rs_gateway.domain.answers import text_of
from rs_gateway.domain.chat import Message
from rs_gateway.domain.errors import MissingVariablesError
from rs_gateway.domain.nearest import NearestIndex
from rs_gateway.domain.placeholders import names_in, parse_text, render
from rs_gateway.domain.prompts import Demo, PromptText

_indexes: dict[int, tuple[tuple[Demo, ...], NearestIndex]] = {}
"""By the identity of a pool of demos: hashing hundreds of them would cost more than looking them up."""
_MAX_INDEXES = 64


def render_messages(
    text: PromptText, variables: Mapping[str, str], messages: Sequence[Message], *, template_id: str
) -> tuple[Message, ...]:
    """What a provider is sent: system, demos as user/assistant turns, the user text, then the client's messages.

    Where only the nearest demos are shown, it is those most like what the input says (`words_of_input`), or the values
    in the instruction where it says nothing.

    An empty instruction sends no system message. Raises MissingVariablesError, naming what both texts lack.
    """
    rendered: list[Message] = []
    try:
        instruction = render(text.instruction, variables, template_id=template_id)
        user = render(text.user, variables, template_id=template_id) if text.user is not None else None
    except MissingVariablesError:
        raise MissingVariablesError(template_id, text.placeholders - variables.keys()) from None
    if instruction:
        rendered.append({"role": "system", "content": instruction})
    for demo in text.demos if not text.nearest else _nearest_demos(text, user, variables, messages):
        rendered.append({"role": "user", "content": demo.user})
        rendered.append({"role": "assistant", "content": demo.assistant})
    if user is not None:
        rendered.append({"role": "user", "content": user})
    rendered.extend(messages)
    return tuple(rendered)


def _nearest_demos(
    text: PromptText, user: str | None, variables: Mapping[str, str], messages: Sequence[Message]
) -> list[Demo]:
    known = _indexes.get(id(text.demos))
    if known is None or known[0] is not text.demos:
        if len(_indexes) >= _MAX_INDEXES:
            _indexes.clear()
        known = _indexes[id(text.demos)] = (text.demos, NearestIndex([demo.user for demo in text.demos]))
    asked = words_of_input(text, user, messages)
    if asked is None:
        asked = " ".join(variables[name] for _, name in parse_text(text.instruction) if name is not None)
    return [text.demos[position] for position in known[1].nearest(asked, text.nearest)]


def words_of_input(text: PromptText, user: str | None, messages: Sequence[Message]) -> str | None:
    """What an input says in the place where a demo shows its own.

    That is `user`, the rendered user text, or the client's last user message where the user text has no placeholder and
    is the same for every input. None where there is neither.
    """
    if user is not None and text.user is not None and names_in(text.user):
        return user
    for message in reversed(messages):
        if message.get("role") == "user":
            words = text_of(message.get("content"))
            return words if words.strip() else None
    return None
