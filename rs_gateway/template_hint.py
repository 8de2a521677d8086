"""A word to who asked for something of a template that nobody knows: it may be a slip of the fingers."""

from typing import TYPE_CHECKING

from rs_gateway.domain.errors import RouteSwitchError
from rs_gateway.domain.wording import did_you_mean

if TYPE_CHECKING:
    from rs_gateway.settings import Settings


def template_hint(template_id: str | None, settings: "Settings") -> str:
    """A sentence, with a space before it; empty where none was named, or it is known, or nothing can be read."""
    from rs_gateway.wiring import open_registry

    if template_id is None:
        return ""
    try:
        state = open_registry(settings).load()
    except RouteSwitchError:
        return ""
    known = {*state.templates, *state.problems, *(c.template_id for c in settings.gateway.combinations)}
    if template_id in known:
        return ""
    return f" No template {template_id!r} is known here.{did_you_mean(template_id, known)}"
