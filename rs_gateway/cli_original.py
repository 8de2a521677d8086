"""Command lines of the original system, read as ours: `--gateway`, `--template-id X`, `--config` anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from typer.core import TyperGroup

ROOT_FLAGS: Mapping[str, str] = {
    "--gateway": "serve",
    "--optimize-prompt": "optimize",
    "--find-best-model": "find-best-model",
}
"""What the original was told to do by a flag -> the command that does it."""
_CONFIG = ("--config", "-c")


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a command decides how its words are read.

    Attributes:
        commands: of a group, its commands by name.
        options: of a command, the spellings of its options.
        leads_with_template: of a command, whether its first argument is the template.
    """

    commands: "Mapping[str, Shape]" = field(default_factory=dict[str, "Shape"])
    options: frozenset[str] = frozenset()
    leads_with_template: bool = False


def as_ours(arguments: Sequence[str], shape: Shape) -> list[str]:
    """The same command line in our words; one that is ours already stays as it is."""
    _, _, rest, config = _split(arguments, Shape())
    flags = [word for word in rest if word in ROOT_FLAGS]
    if flags and (not rest or rest[0].startswith("-")):
        rest.remove(flags[0])
        rest.insert(0, ROOT_FLAGS[flags[0]])
    path, command, own, later = _split(rest, shape)
    config += later
    if command.leads_with_template and "--template-id" not in command.options:
        own = _template_first(own)
    return [*path, *own, *config] if command is not shape else [*config, *rest]


def _split(words: Sequence[str], shape: Shape) -> tuple[list[str], Shape, list[str], list[str]]:
    """The words that name a command, the command, its own words, and a configuration that was named before these."""
    path, config, rest = list[str](), list[str](), list(words)
    while rest:
        if rest[0] in shape.commands:
            shape = shape.commands[rest[0]]
            path.append(rest.pop(0))
        elif path and not shape.commands:
            break  # what follows is the command's own
        elif rest[0] in _CONFIG and len(rest) > 1:
            config += [rest.pop(0), rest.pop(0)]
        elif rest[0].startswith("--config="):
            config.append(rest.pop(0))
        else:
            break
    return path, shape, rest, config


def _template_first(words: list[str]) -> list[str]:
    end = words.index("--") if "--" in words else len(words)
    for place, word in enumerate(words[:end]):
        if word == "--template-id" and place + 1 < end:
            return [words[place + 1], *words[:place], *words[place + 2 :]]
        if word.startswith("--template-id="):
            return [word.removeprefix("--template-id="), *words[:place], *words[place + 1 :]]
    return words


class OriginalNames(TyperGroup):
    """The root command, which understands the original's command lines too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `as_ours`."""
        return super().parse_args(ctx, as_ours(args, _shape(self)))


def _shape(command: Any) -> Shape:
    commands = {name: _shape(sub) for name, sub in getattr(command, "commands", {}).items()}
    options = frozenset(o for p in command.params if p.param_type_name == "option" for o in p.opts)
    arguments = [p.name for p in command.params if p.param_type_name == "argument"]
    return Shape(commands, options, arguments[:1] == ["template_id"])
