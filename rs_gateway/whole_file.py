"""A file that appears whole or not at all."""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rs_gateway.domain.errors import ConfigurationError


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Generator[TextIO]:
    """Write `path` in the block; an exception in it leaves what was there.

    Raises:
        ConfigurationError: it is there already and may not be overwritten, is no regular file, or cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _refuse(path, overwrite=overwrite)
        with aside.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror or error}): name another place, or mend this one."
        ) from error
    finally:
        with suppress(OSError):  # where it could not be made, there is nothing to remove
            aside.unlink()


def _refuse(path: Path, *, overwrite: bool) -> None:
    """Raises ConfigurationError, or OSError: nothing can have that name."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not overwrite:
        raise ConfigurationError(f"{path} is there already: choose another name, or say --overwrite.")
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path} is no file that could be replaced: choose another name.")
