"""What a disk refuses, in words, and what to do about it: no command can mend it by itself, and any may meet it."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

_REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: "Free room there",
    errno.EDQUOT: "Free some of your quota",
    errno.EROFS: "Make the file system writable",
    errno.EACCES: "Give this user the right to it",
}


@dataclass(frozen=True, slots=True)
class DiskFault:
    """What happened and where, whatever language the system speaks; and the beginning of a sentence that helps."""

    words: str
    remedy: str


def disk_fault(error: OSError) -> DiskFault | None:
    """What the disk refused; None for any other error of the system."""
    number = error.errno or 0
    if number not in _REMEDIES:
        return None
    where = f": {error.filename}" if error.filename else ""
    return DiskFault(f"{os.strerror(number)}{where}.", _REMEDIES[number])
