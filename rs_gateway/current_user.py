"""Who is at the keyboard, for the record."""

from getpass import getuser
from os import getuid


def current_user() -> str:
    """The name of the user whose process this is, or the number where there is no name."""
    try:
        return getuser()
    except (KeyError, OSError):  # a container's user id that no passwd entry names; OSError from Python 3.13 on
        return f"uid {getuid()}"
