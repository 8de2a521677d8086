"""Commands, options and keys that README.md and docs/ name are there; log events that are there are named."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from rs_gateway.settings import Settings
from tests.commands import COMMANDS
from tests.documents.markdown_blocks import blocks_of, commands_of

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.parent.name not in ("reference", "decisions")
)
GROUPS = {name.split()[0] for name in COMMANDS if " " in name}
ORIGINAL = {"--gateway", "--optimize-prompt", "--find-best-model"}
"""First words of the original system's command lines, which are read as ours."""
EVERYWHERE = {"--help", "--install-completion", "--show-completion", "--template-id", "--config"}
KEYS = frozenset(
    part
    for key in re.findall(r"^### `(.+)`$", (ROOT / "docs/reference/configuration.md").read_text("utf-8"), re.MULTILINE)
    for part in itertools.accumulate(re.sub(r"<[^>]+>", "NAME", key).replace("[]", "").split("."), "{}.{}".format)
)
"""Every key of route-switch.yaml and every section, with dots; `NAME` where a person chooses the name."""
FILES = re.compile(r"\.(db|log)$")


def spans(page: Path) -> Iterator[str]:
    """All code inside sentences and tables."""
    for token in MarkdownIt().enable("table").parse(page.read_text("utf-8")):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def command_lines(page: Path) -> Iterator[str]:
    """All of `route-switch`, from sentences, tables and blocks."""
    yield from (span for span in spans(page) if span.startswith("route-switch "))
    for block in blocks_of(page.read_text("utf-8")):
        if block.language in ("sh", "bash", "console"):
            yield from (
                match for command in commands_of(block) for match in re.findall(r"route-switch .*", command.text)
            )


def unknown(line: str) -> str | None:
    """What of a command line is not there: a command, or an option of it."""
    own = re.split(r"[|;&>)`#]", re.sub(r"""\$\([^)]*\)|"[^"]*"|'[^']*'""", "VALUE", line))[0]
    words = own.split()[1:]
    if words[:1] in (["--config"], ["-c"]):
        words = words[2:]
    if not words or words[0] in ORIGINAL | EVERYWHERE | {"COMMAND"}:
        return None
    name = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    if name in GROUPS:
        return None
    if name not in COMMANDS:
        return name
    known = {option for p in COMMANDS[name].params for option in (*p.opts, *p.secondary_opts)} | EVERYWHERE
    options = [word.split("=")[0] for word in words if word.startswith("-")]
    return next((option for option in options if option not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_is_there(page: Path) -> None:
    assert {line: wrong for line in command_lines(page) if (wrong := unknown(line)) is not None} == {}


def keys(page: Path) -> Iterator[str]:
    """What looks like a key of route-switch.yaml with its section, such as `privacy.retention` or `stores.lake: s3://...`."""
    for span in spans(page):
        match = re.fullmatch(rf"((?:{'|'.join(Settings.model_fields)})(?:\.[\w<>\[\]]+)+)(?:: .*)?", span)
        if match is not None and not FILES.search(match[1]):
            yield re.sub(r"<[^>]+>", "NAME", match[1]).replace("[]", "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_that_a_page_names_is_one_of_the_configuration(page: Path) -> None:
    """But for the page that lists keys which the original system had."""
    if page.name != "from-route-switch-go.md":
        assert set(keys(page)) <= KEYS


def log_events() -> Iterator[str]:
    """The names of all events that the gateway's code logs."""
    for module in sorted((ROOT / "rs_gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Name(id="log" | "_log"), attr="info" | "warning" | "error" | "exception"
                    ),
                    args=[ast.Constant(value=str(event)), *_],
                ):
                    yield event
                case _:
                    pass


def test_every_event_that_the_gateway_logs_is_explained() -> None:
    events = set(log_events())
    assert len(events) > 20
    assert events <= set(spans(ROOT / "docs/guides/operate.md"))
