"""A restore that has begun to replace stores and has not ended: nobody may serve from what is half the old set."""

from pathlib import Path

from rs_gateway.domain.errors import StoreError

_MARK = ".restoring"


def mark_restore(data: Path) -> None:
    """From here on the stores under `data` are not one set."""
    data.mkdir(parents=True, exist_ok=True)
    (data / _MARK).touch()


def restore_finished(data: Path) -> None:
    """They are again."""
    (data / _MARK).unlink(missing_ok=True)


def refuse_half_restored(data: Path) -> None:
    """Raises StoreError: a restore was cut off."""
    if (data / _MARK).exists():
        raise StoreError(
            f"A restore into {data} was cut off, so its stores do not belong together: run `route-switch restore` "
            "again with --overwrite."
        )
