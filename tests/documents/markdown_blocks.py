"""The fenced blocks of a Markdown document, and the commands that they hold."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt

_PROMPT = "$ "
_NAMED = re.compile(r"(?:#|<!--|//)\s*(\S+\.(?:ya?ml|py|json))\s*(?:-->)?")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        line: where it begins, counted from 1.
        language: the first word after the fence; empty where there is none.
        options: the words after it.
    """

    line: int
    language: str
    options: tuple[str, ...]
    text: str

    @property
    def file_name(self) -> str | None:
        """What the reader saves it as, where its first line is a comment that says so and nothing else."""
        match = _NAMED.fullmatch(self.text.partition("\n")[0].strip())
        return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Command:
    """What is typed at once, and the lines that the document shows as its output."""

    text: str
    shown: tuple[str, ...] = ()


def blocks_of(markdown: str) -> list[Block]:
    """All fenced blocks, in order."""
    blocks: list[Block] = []
    for token in MarkdownIt().parse(markdown):
        if token.type == "fence" and token.map is not None:
            language, *options = token.info.split() or [""]
            blocks.append(Block(token.map[0] + 1, language, tuple(options), token.content))
    return blocks


def commands_of(block: Block) -> list[Command]:
    """The commands of a block of the shell's; a `console` has each after a `$`, and its output below."""
    lines = block.text.splitlines()
    commands: list[Command] = []
    while lines:
        line = lines.pop(0)
        if block.language == "console":
            if not line.startswith(_PROMPT):
                if not commands:
                    raise ValueError(
                        f"line {block.line}: a console begins with a command after `$ `, not with {line!r}"
                    )
                commands[-1] = Command(commands[-1].text, (*commands[-1].shown, line))
                continue
            line = line.removeprefix(_PROMPT)
        elif not line.strip() or line.lstrip().startswith("#"):
            continue
        typed = [line]
        while not _is_whole(typed):
            if not lines:
                raise ValueError(f"line {block.line}: the shell waits for more after {line!r}")
            typed.append(lines.pop(0))
        commands.append(Command("\n".join(typed)))
    return commands


def _is_whole(lines: Sequence[str]) -> bool:
    """Whether the shell would run this, rather than wait for another line."""
    if lines[-1].endswith("\\"):
        return False
    text = "\n".join(lines)
    if not re.search(r"""['"({<]|\b(?:for|while|if|case)\b""", text):
        return True
    parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    return parsed.returncode == 0 and not parsed.stderr
