"""What a shell completes besides commands and options: names out of the configuration, the registry and studies.

Silent where nothing can be read: a person who presses Tab wants no message. A registry on Postgres is not asked.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rs_gateway.settings import Settings


def template_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Templates that are registered, and those that combinations name."""
    return _completed(ctx, incomplete, _templates)


def combination_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Every combination."""
    return _completed(ctx, incomplete, lambda settings: (c.id for c in settings.gateway.combinations))


def model_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Models that combinations run."""
    return _completed(ctx, incomplete, lambda settings: (c.model for c in settings.gateway.combinations))


def version_numbers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Versions of the template that is named already."""
    template_id = ctx.params.get("template_id")
    return _completed(ctx, incomplete, lambda settings: _versions(settings, template_id))


def study_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Studies on disk, those that came with packages too; see `rs_pipelines/studies.py`."""

    def names_in(settings: "Settings") -> Iterator[str]:
        data = settings.path(settings.data_dir)
        for pattern in ("studies/*/*/study.json", "packages/*/*/studies/*/*/study.json"):
            yield from (file.parent.name for file in data.glob(pattern))

    return _completed(ctx, incomplete, names_in)


def _completed(ctx: typer.Context, incomplete: str, names_in: "Callable[[Settings], Iterable[str]]") -> list[str]:
    from rs_gateway.settings import load_settings

    try:
        names = dict.fromkeys(names_in(load_settings(ctx.params.get("config"))))
    except Exception:  # noqa: BLE001  whatever it is, the command itself will say it
        return []
    return [name for name in sorted(names, key=_in_order) if name.startswith(incomplete)]


def _in_order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (0, name)


def _templates(settings: "Settings") -> Iterable[str]:
    yield from (combination.template_id for combination in settings.gateway.combinations)
    if settings.prompts_url.startswith("file:"):
        from rs_gateway.wiring import open_registry

        yield from open_registry(settings).load().templates


def _versions(settings: "Settings", template_id: object) -> Iterable[str]:
    if isinstance(template_id, str) and settings.prompts_url.startswith("file:"):
        from rs_gateway.wiring import open_registry

        yield from map(str, open_registry(settings).get(template_id).versions)
