"""`route-switch` and `python -m rs_gateway`."""

import sys


def main() -> None:
    """Entry point of the console script."""
    if sys.version_info < (3, 11):  # noqa: UP036  # a clone can be run with any Python, whatever pip would say
        sys.exit("error: Route-Switch needs Python 3.11 or newer, and this is {}.{}.".format(*sys.version_info))
    from rs_gateway.cli import run

    run()


if __name__ == "__main__":
    main()
