"""Packages as directories and as `.tar.zst` files: written whole, read with suspicion.

Whatever is read is copied first, by names that lead nowhere else and within limits, and only the copy is looked at.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from rs_gateway.domain.errors import StoreError, shown
from rs_pipelines.durable_files import put_in_place
from rs_pipelines.packages.format import (
    ARCHIVE_SUFFIX,
    Limits,
    PackageError,
    Watch,
    check_distinct,
    check_name,
    unwatched,
)

_BLOCK = 512
_READ_BYTES = 1 << 10
"""A run-length block of four bytes unpacks to 128 KiB, so one read of this size to 32 MiB at the most."""
_COPY_BYTES = 1 << 20
_MAX_WINDOW_BYTES = 1 << 27
_MAX_DIRECTORIES = 1_000
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_IGNORED = ".git"
"""At the top of a directory that somebody keeps under version control; never looked at."""


def is_archive(path: Path) -> bool:
    """Whether a path is written as an archive, by its name."""
    return path.name.endswith(ARCHIVE_SUFFIX)


def pack(folder: Path, archive: Path, *, watch: Watch = unwatched) -> None:
    """Write all files of `folder` as a `.tar.zst` with checksum; the same files give the same bytes."""
    temporary = archive.with_name(f".{archive.name}.tmp")
    compressor = zstandard.ZstdCompressor(level=10, write_checksum=True)
    with (
        temporary.open("wb") as raw,
        compressor.stream_writer(raw, closefd=False) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        done, total = 0, sum(path.stat().st_size for path in paths)
        for path in paths:
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(info, file)
            done += info.size
            watch("packing", done, total)
    put_in_place(temporary, archive)


def stage(path: Path, into: Path, limits: Limits, *, watch: Watch = unwatched) -> None:
    """Copy a package, directory or archive, into the empty folder `into`.

    Raises:
        PackageError: it is neither, too large or cut off, or holds links, special files or names that lead elsewhere.
        StoreError: there is no room for the copy.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            _copy_directory(path, into, limits, watch)
        elif stat.S_ISREG(found.st_mode):
            _unpack(path, into, limits, watch)
        else:
            raise PackageError(f"{path} is neither a directory nor a file.")
    except FileNotFoundError as error:
        raise PackageError(f"There is no package {error.filename or path}: `package export` makes one.") from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreError(
                f"There is no room to unpack {path} in {into} ({error.strerror}): make room there, and run it again."
            ) from error
        raise PackageError(f"The package {path} cannot be read: {error}.") from error


class _Intake:
    """Writes files into a folder as long as names and sizes are allowed."""

    def __init__(self, into: Path, limits: Limits) -> None:
        self._into, self._limits = into, limits
        self._bytes_left = limits.max_bytes
        self.names: list[str] = []

    def add(self, name: str, size: int | None, chunks: Iterator[bytes]) -> None:
        """Write one file. `size`: what its source claims."""
        if len(self.names) >= self._limits.max_files:
            raise PackageError(f"The package has more than {self._limits.max_files:,} files.")
        path = self._into / check_name(name)
        if name in self.names:
            raise PackageError(f"The package has {shown(name)} twice.")
        if size is not None and size > self._bytes_left:
            raise self._too_large()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for chunk in chunks:
                self._bytes_left -= len(chunk)
                if self._bytes_left < 0:
                    raise self._too_large()
                file.write(chunk)
        self.names.append(name)

    def _too_large(self) -> PackageError:
        return PackageError(f"The package unpacks to more than {self._limits.max_bytes:,} bytes.")


# Directories


def _copy_directory(folder: Path, into: Path, limits: Limits, watch: Watch) -> None:
    intake = _Intake(into, limits)
    names: list[str] = []
    pending = [""]
    n_directories = 0
    while pending:
        n_directories += 1
        if n_directories > _MAX_DIRECTORIES:
            raise PackageError(f"The package has more than {_MAX_DIRECTORIES:,} directories.")
        prefix = pending.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                name = prefix + entry.name
                if name == _IGNORED:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    check_name(name)
                    pending.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    names.append(name)
                else:
                    raise PackageError(f"The package holds {shown(name)}, a link or special file: packages have none.")
        if len(names) > limits.max_files:
            raise PackageError(f"The package has more than {limits.max_files:,} files.")
    check_distinct(names)
    for position, name in enumerate(names):
        watch("copying", position, len(names))
        # Not following links: the entry may have become one since.
        descriptor = os.open(folder / check_name(name), os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            intake.add(name, None, iter(lambda: file.read(_COPY_BYTES), b""))


# Archives


def _unpack(archive: Path, into: Path, limits: Limits, watch: Watch) -> None:
    intake = _Intake(into, limits)
    reader = _Unzipped(archive, limits.max_bytes + (limits.max_files + 1_000) * 2 * _BLOCK)
    with archive.open("rb") as file:
        size = archive.stat().st_size

        def read(n: int) -> bytes:
            if file.tell() % _COPY_BYTES < _READ_BYTES:
                watch("unpacking", file.tell(), size)
            return file.read(n)

        reader.source = read
        while (header := reader.exactly(_BLOCK)) != bytes(_BLOCK):
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise PackageError(f"{archive.name} holds no readable tar file ({error}).") from error
            if info.type == tarfile.DIRTYPE:
                check_name(info.name.rstrip("/"))
                continue
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise PackageError(
                    f"The archive holds {shown(info.name)} of tar type {info.type!r}: a link, a special file or an "
                    "extended header. Packages have plain files only; pack a directory again with `tar --format=ustar`."
                )
            intake.add(info.name.removeprefix("./"), info.size, reader.chunks(info.size))
            if reader.exactly(-info.size % _BLOCK).strip(b"\0"):
                raise PackageError("The archive has bytes between its files.")
        reader.end_with_zeros()
    check_distinct(intake.names)


class _Unzipped:
    """The bytes behind one zstd frame, in order; never more than 32 MiB of them in memory."""

    def __init__(self, archive: Path, max_bytes: int) -> None:
        self.source: Callable[[int], bytes]
        self._name, self._left = archive.name, max_bytes
        self._frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        self._buffer = bytearray()

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes, few. Raises PackageError: the archive ends before."""
        while len(self._buffer) < size:
            if not self._fill():
                raise PackageError(f"{self._name} is cut off: it ends in the middle. Get it again.")
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def chunks(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes, many."""
        while size > 0:
            chunk = self.exactly(min(size, _COPY_BYTES))
            size -= len(chunk)
            yield chunk

    def end_with_zeros(self) -> None:
        """Read to the end of the frame. Raises PackageError: more than padding follows, or the end is missing."""
        while True:
            if self._buffer.strip(b"\0"):
                raise PackageError(f"{self._name} has bytes after its last file.")
            self._buffer.clear()
            if not self._fill():
                break
        if not self._frame.eof:
            raise PackageError(f"{self._name} is cut off: its last bytes are missing. Get it again.")
        if self._frame.unused_data or self.source(1):
            raise PackageError(f"{self._name} has bytes after its end.")

    def _fill(self) -> bool:
        if self._frame.eof:
            return False
        data = self.source(_READ_BYTES)
        if not data:
            return False
        try:
            more = self._frame.decompress(data)
        except zstandard.ZstdError as error:
            raise PackageError(
                f"{self._name} is damaged or no {ARCHIVE_SUFFIX} file ({error}). Get it again."
            ) from error
        self._left -= len(more)
        if self._left < 0:
            raise PackageError(f"{self._name} unpacks to more than a package may hold.")
        self._buffer += more
        return True
