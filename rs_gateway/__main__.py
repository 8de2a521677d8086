"""`route-switch` and `python -m rs_gateway`."""

from rs_gateway.cli import run


def main() -> None:
    """Entry point of the console script."""
    run()


if __name__ == "__main__":
    main()
