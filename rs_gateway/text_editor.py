"""A person's own editor, on a text."""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rs_gateway.domain.errors import ConfigurationError


def edited_in_editor(text: str, *, suffix: str) -> Path:
    """Open `text` in $VISUAL, $EDITOR or vi and wait until the editor ends; return the file, which is the caller's.

    Raises:
        ConfigurationError: there is no such editor, or it says that it failed.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    descriptor, name = tempfile.mkstemp(prefix="route-switch-", suffix=suffix)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        with _ctrl_c_is_the_editors():
            status = subprocess.run([*shlex.split(command), name], check=False).returncode
    except (OSError, ValueError) as error:
        Path(name).unlink()
        raise ConfigurationError(
            f"The editor {command!r} cannot be started ({error}): set EDITOR to yours, or pass the text with --file."
        ) from None
    if status:
        raise ConfigurationError(f"The editor {command!r} ended with status {status}. The text is kept in {name}.")
    if not Path(name).is_file():
        raise ConfigurationError(f"The editor {command!r} removed {name}: nothing was changed.")
    return Path(name)


@contextmanager
def _ctrl_c_is_the_editors() -> Generator[None]:
    """A terminal sends Ctrl-C to both of us. With a handler, not SIG_IGN, which the editor would inherit."""
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
