"""Measures the gateway beside its peers and prints one table of ratios. Started with `--help`, it says how."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

if not __package__:  # started as a file, it finds its siblings by the repository's root
    sys.path[0] = str(Path(__file__).parents[1])

PEERS = ("bare", "litellm", "portkey")
STEPS = ("workers", "memory")
_WORDS = """\
The server runs on one core, the load generator (wrk) and a mock upstream on another. All contenders are up; in every
round each takes its turn, and every ratio is the median over rounds of ours to theirs.

  ours      route-switch serve: a client key, a rendered template, `weighted` over 3 combinations, traces on
  bare      uvicorn and aiohttp with no features: what all of ours together cost
  litellm   LiteLLM's proxy, from PyPI, as its production guide has it, without a database
  portkey   Portkey's gateway, from npm

The first run installs the pinned peers into .cache/benchmarks (or $BENCH_CACHE); their logs are in logs/ there.
Needed: Linux, 2 cores, wrk, cc; node and npm for portkey. A full run takes about ten minutes; keep the machine quiet.
"""
_EXAMPLES = """\
examples:
  python benchmarks/gateway.py --json                       everything; the last line is for scripts
  python benchmarks/gateway.py --quick --peers bare         two minutes: what do the features cost?
  python benchmarks/gateway.py --skip litellm,portkey,memory
"""


def main() -> int:
    """0 done, 1 failed, 2 wrong usage, 130 stopped."""
    options = _options()
    from benchmarks.figures import as_json, table
    from benchmarks.processes import BenchmarkError
    from benchmarks.suite import Plan, quick, run

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    plan = Plan(
        peers=frozenset(options.peers) - options.skip,
        steps=frozenset(STEPS) - options.skip,
        rounds=options.rounds,
        duration_s=options.duration,
        pause_ms=options.pause_ms,
        n_mixed=options.requests,
        server_core=cores[0],
        load_core=cores[-1],
    )
    try:
        with tempfile.TemporaryDirectory(prefix="route-switch-bench-") as directory:
            seen, names = run(quick(plan) if options.quick else plan, Path(directory))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(table(seen, names))
    if options.json:
        print(as_json(seen))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gateway.py",
        description=f"Measure the gateway beside its peers.\n\n{_WORDS}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", type=_names(PEERS), default=frozenset(PEERS), metavar="A,B", help="only these peers")
    parser.add_argument(
        "--skip",
        type=_names((*PEERS, *STEPS)),
        default=frozenset[str](),
        metavar="A,B",
        help=f"leave out, of {', '.join((*PEERS, *STEPS))}; what needs them is null",
    )
    parser.add_argument("--rounds", type=_at_least(1), default=5, metavar="N", help="default 5")
    parser.add_argument("--duration", type=_at_least(1), default=4, metavar="SECONDS", help="of one load; default 4")
    parser.add_argument(
        "--requests", type=_at_least(1_000), default=200_000, metavar="N", help="of the memory run; default 200000"
    )
    parser.add_argument(
        "--pause-ms", type=_at_least(0), default=0, metavar="MS", help="between the upstream's chunks; default 0"
    )
    parser.add_argument("--quick", action="store_true", help="one short round and 10,000 requests for memory")
    parser.add_argument("--json", action="store_true", help="print the ratios as JSON on the last line")
    return parser.parse_args()


def _names(known: tuple[str, ...]):
    def read(text: str) -> frozenset[str]:
        names = frozenset(name.strip() for name in text.split(",") if name.strip())
        if unknown := sorted(names - set(known)):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(known)}")
        return names

    return read


def _at_least(least: int):
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main())
