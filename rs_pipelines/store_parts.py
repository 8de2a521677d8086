"""What a running system keeps, part by part, and where: what a backup holds and a restore brings back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from rs_gateway.adapters.sqlite_traces import sqlite_path
from rs_gateway.settings import Settings

PartKind: TypeAlias = Literal["database", "folder"]


@dataclass(frozen=True, slots=True)
class Part:
    """One store under the configuration.

    Attributes:
        name: what it is called in a backup, and the file or folder that it is there.
        setting: the key of the configuration that places it.
    """

    name: str
    kind: PartKind
    path: Path
    setting: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A store that is no file of this machine; `remedy` says who backs it up."""

    name: str
    remedy: str


def parts_of(settings: Settings) -> tuple[tuple[Part, ...], tuple[Elsewhere, ...]]:
    """All parts, and those that are kept elsewhere.

    In the order in which they are copied: whoever refers to something goes before it, so that nothing in a backup
    refers to what was made later. A version names its study or its package, a study its sample, a sample its traces;
    the lake goes on from a row of the trace store.
    """
    data = settings.path(settings.data_dir)
    parts: list[Part] = []
    elsewhere: list[Elsewhere] = []
    scheme, _, place = settings.prompts_url.partition(":")
    if scheme == "file":
        root = settings.path(place.removeprefix("//") if place.startswith("///") else place)
        parts.append(Part("prompts", "folder", root, "stores.prompts"))
    else:
        elsewhere.append(_on_a_server("prompts", scheme))
    parts += [
        Part("studies", "folder", data / "studies", "data_dir"),
        Part("samples", "folder", data / "samples", "data_dir"),
        Part("known_examples", "folder", data / "known_examples", "data_dir"),
        Part("packages", "folder", data / "packages", "data_dir"),
        Part("datasets", "folder", settings.datasets_path, "dataset.base_path"),
        Part("embeddings.db", "database", data / "cache" / "embeddings.db", "data_dir"),
    ]
    if settings.stores.answers is None:
        parts.append(Part("answers.db", "database", data / "cache" / "answers.db", "data_dir"))
    else:
        elsewhere.append(_on_a_server("answers", "postgresql"))
    if settings.stores.lake is None:
        parts.append(Part("lake", "folder", data / "lake", "data_dir"))
    else:
        elsewhere.append(
            Elsewhere(
                "lake", f"stores.lake is {settings.stores.lake}: keep versions of its objects, or copy the bucket"
            )
        )
    for name, url in (("traces", settings.traces_url), ("access", settings.access_url)):
        scheme = url.partition(":")[0]
        if scheme == "sqlite":
            parts.append(Part(f"{name}.db", "database", settings.path(sqlite_path(url)), f"stores.{name}"))
        else:
            elsewhere.append(_on_a_server(name, scheme))
    return tuple(parts), tuple(elsewhere)


def _on_a_server(name: str, scheme: str) -> Elsewhere:
    return Elsewhere(name, f"stores.{name} is on {scheme}: back it up there, as with pg_dump, right after this")
