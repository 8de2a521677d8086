"""A reader who does all that a document says, in order, in a scratch directory beside a scripted provider."""

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.documents.markdown_blocks import Block, Command, blocks_of, commands_of
from tests.documents.shell_session import CommandFailedError, ShellSession
from tests.documents.shown_output import first_line_not_said
from tests.e2e.processes import answers, free_address
from tests.running import eventually

ROOT = Path(__file__).parents[2]
ENVIRONMENT = Path(sys.prefix)
"""The virtual environment of the tests: the document's `.venv`."""
SHELL = frozenset({"sh", "bash", "console"})
SHOWN = frozenset({"text", "json", "yaml"})
"""Languages of blocks that are looked at, or saved; all others are refused."""
_COMMENT = re.compile(r"\s+# .*$")
_SERVES = re.compile(r"\broute-switch (?:serve|(?:--config \S+ )?--gateway)\b")
_SOON = ("curl ", "route-switch explain ", "route-switch feedback add ")
"""A gateway takes over a new version at its next refresh, and stores a trace a moment after its answer."""
_FAILS = (("error: ", 1), ('{"error":', 22))
"""How shown output of a failure begins, and the exit status that goes with it: of `route-switch`, and of `curl`."""


@dataclass
class Reader:
    """Reads documents one after the other, and does what stands there.

    What is served on port 8080 is served at `gateway`, and the model of port 8081 is the scripted provider; so are
    OpenAI and Mistral. A block whose first line is a comment with a file's name is saved under it.

    Attributes:
        upstream_url: of the scripted provider, up to and with `/v1`.
        not_run: commands that are left out, without the comment behind them.
        left_out: those of them that were met.
        patience_s: how long a command that may come too early is tried again.
    """

    folder: Path
    upstream_url: str
    not_run: frozenset[str] = frozenset()
    left_out: set[str] = field(default_factory=set[str])
    patience_s: float = 30.0
    gateway: str = field(default_factory=free_address)
    _served_by: int | None = None

    def __post_init__(self) -> None:
        """The files of a clone that documents name."""
        (self.folder / ".venv").symlink_to(ENVIRONMENT)
        (self.folder / "data").mkdir()
        (self.folder / "data/sample").symlink_to(ROOT / "data/sample")
        # No bars among the lines of an answer; and an error that the document does not show is one.
        (self.folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")

    def read(self, *documents: Path, first: str = "") -> None:
        """Do all that they say, in one shell, after the command `first`, which they take for granted.

        Raises:
            AssertionError: something cannot be done, or does not say what is shown; with its line.
        """
        with ShellSession(self.folder, self._environment()) as shell:
            shell.run(first)
            for document in documents:
                self._read(document, shell)
            self._served_by = None

    def _read(self, document: Path, shell: ShellSession) -> None:
        before, said = Block(0, "", (), ""), ""
        for block in blocks_of(self._here(document.read_text(encoding="utf-8"))):
            try:
                if block.language == "text" and before.language == "python":
                    _compare(block.text.splitlines(), said)
                else:
                    said = self._do(block, shell)
            except (AssertionError, ValueError) as error:
                log = self._gateway_log.read_text()[-2000:] if self._gateway_log.exists() else ""
                raise AssertionError(f"{document.name}, block at line {block.line}: {error}\n{log}") from error
            before = block

    def _do(self, block: Block, shell: ShellSession) -> str:
        """Save, run or look at a block; what a Python block printed."""
        if block.file_name is not None:
            (self.folder / block.file_name).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            script = self.folder / (block.file_name or "block.py")
            script.write_text(block.text, encoding="utf-8")
            return shell.run(f"python '{script}'")
        if block.language in SHELL:
            for command in commands_of(block):
                self._type(command, shell)
        elif block.language not in SHOWN:
            raise ValueError(f"nobody knows what to do with a block of {block.language!r}")
        return ""

    def _type(self, command: Command, shell: ShellSession) -> None:
        name = _COMMENT.sub("", command.text)
        if name in self.not_run:
            self.left_out.add(name)
        elif _SERVES.search(name) and not command.shown:
            self._serve(name, shell)
        else:
            _compare(command.shown, self._output_of(command, shell))

    def _output_of(self, command: Command, shell: ShellSession) -> str:
        """What it prints; asked again for a moment where a gateway may not be that far yet."""
        status = next((ends for line in command.shown for begins, ends in _FAILS if line.startswith(begins)), 0)
        deadline = time.monotonic() + (self.patience_s if command.text.startswith(_SOON) else 0)
        while True:
            last = time.monotonic() >= deadline
            try:
                output = shell.run(command.text, status=status)
            except CommandFailedError:
                if last:
                    raise
                continue
            if last or first_line_not_said(command.shown, output) is None:
                return output

    def _serve(self, command: str, shell: ShellSession) -> None:
        """Start a gateway; the one before is stopped first, as a person does with Ctrl-C."""
        if self._served_by is not None:
            shell.run(f"kill {self._served_by}; wait {self._served_by} || true")
        self._served_by = shell.start(command, log=self._gateway_log)
        eventually(lambda: answers(f"http://{self.gateway}/health"), timeout_s=120)

    @property
    def _gateway_log(self) -> Path:
        return self.folder / "gateway.log"

    def _here(self, text: str) -> str:
        """The document with addresses that are free here."""
        provider = self.upstream_url.removeprefix("http://").removesuffix("/v1")
        return text.replace("127.0.0.1:8080", self.gateway).replace("127.0.0.1:8081", provider)

    def _environment(self) -> Mapping[str, str]:
        programs = (ENVIRONMENT / "bin").resolve()
        path = [place for place in os.environ["PATH"].split(os.pathsep) if Path(place).resolve() != programs]
        return {
            **os.environ,
            "PATH": os.pathsep.join(path),  # a document has to say `source .venv/bin/activate`
            "HOME": str(self.folder),
            "LOGNAME": "kim",
            "VISUAL": "sed -i 's/ word/ lower-case word/'",
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "RS_GATEWAY__ADDR": self.gateway,
            "RS_GATEWAY__REFRESH_SECONDS": "0.05",
            **{f"RS_MODEL_PROVIDERS__{name}__BASE_URL": self.upstream_url for name in ("OPENAI", "MISTRAL")},
        }


def _compare(shown: Sequence[str], output: str) -> None:
    if (missing := first_line_not_said(shown, output)) is not None:
        raise AssertionError(f"this is shown:\n{missing}\nbut what was said has no such line here:\n{output}")
