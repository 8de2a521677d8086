"""The demo's own directory: emptied before every run, held by one demo at a time, and never anybody else's."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rs_gateway.domain.errors import ConfigurationError, RouteSwitchError

_MARK = ".route-switch-demo"
_ANOTHER = "name another --directory"


class DemoBusyError(RouteSwitchError):
    """Another demo runs in the same directory."""

    code = "demo_busy"


@contextmanager
def demo_directory(directory: Path) -> Generator[None]:
    """Hold `directory` for one demo; in the block it is there, the demo's own, and empty.

    Whoever is interrupted while emptying it leaves a directory that the next demo takes: its mark stays all the time.

    Raises:
        DemoBusyError: another demo holds it.
        ConfigurationError: it cannot be made or emptied, or holds something that is not the demo's.
    """
    directory = directory.resolve()  # `.` has no name that a lock could have
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _check_own(directory)  # before anything is written beside it
        lock = FileLock(directory.parent / f".{directory.name}.lock", blocking=False)
        lock.acquire()
    except Timeout:
        raise DemoBusyError(f"Another demo is running in {directory}: stop it, or {_ANOTHER}.") from None
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        _make_empty(directory)
        yield
    finally:
        lock.release()


def _make_empty(directory: Path) -> None:
    mark = directory / _MARK
    try:
        directory.mkdir(exist_ok=True)
        _check_own(directory)
        mark.touch()
        for path in [path for path in directory.iterdir() if path != mark]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise _unusable(directory, error) from error


def _check_own(directory: Path) -> None:
    if directory.exists() and not (directory / _MARK).exists() and any(directory.iterdir()):
        raise ConfigurationError(f"{directory} holds something that is not the demo's: {_ANOTHER}.")


def _unusable(directory: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{directory} cannot be the demo's directory ({error.filename}: {error.strerror}): {_ANOTHER}."
    )
