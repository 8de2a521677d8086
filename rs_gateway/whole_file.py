"""A file that appears whole or not at all."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rs_gateway.domain.errors import ConfigurationError


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Generator[TextIO]:
    """Write `path` in the block; an exception in it leaves what was there.

    Raises:
        ConfigurationError: it is there already and may not be overwritten, is no regular file, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise ConfigurationError(f"{path} is there already: choose another name, or say --overwrite.")
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{path} is no file that could be replaced: choose another name.")
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror or error}).") from error
    finally:
        aside.unlink(missing_ok=True)
