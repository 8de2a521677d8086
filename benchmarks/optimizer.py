"""Measures the optimiser's search beside DSPy's MIPROv2. Started with `--help`, it says how."""

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file, it finds its siblings by the repository's root
    sys.path[0] = str(Path(__file__).parents[1])

_WORDS = """\
--replay   search policies on complete score tables (benchmarks/tables/*.json, or --tables): on random re-splits of
           their rows, each policy may look at as many scores as DSPy's policy did on the same split
--check    the real DSPy beside our replay of its policy, on the first table: same choices, same number of calls?
--develop  the same policies on made-up tables; policies are chosen here, and only judged on the real ones
--live     whole optimisations with real models, ours and DSPy's, as --pairs describes them

DSPy is installed into an environment of its own under .cache/benchmarks (or $BENCH_CACHE). Finished live runs are kept
in --results and not run again.
"""
_EXAMPLES = """\
examples:
  python benchmarks/optimizer.py --replay --json            minutes; the last line is for scripts
  python benchmarks/optimizer.py --check --seeds 20
  python benchmarks/optimizer.py --live --pairs pairs.yaml  hours on two cores; resumable
  python -m benchmarks.table_maker --help                   makes a table from a JSONL file and a model of your own
"""


def main() -> int:
    """0 done, 1 failed, 2 wrong usage."""
    options = _options()
    from benchmarks.optimizer_report import as_json, check_lines, live_lines, replay_lines
    from benchmarks.processes import BenchmarkError
    from benchmarks.replay_suite import check, develop, replay

    everything = not (options.replay or options.live or options.check or options.develop)
    replayed, lived = None, None
    try:
        if options.develop:
            print("\n".join(replay_lines(develop(seeds=options.seeds))))
        if options.check:
            print("\n".join(check_lines(check(options.tables, seeds=options.seeds))))
        if options.replay or everything:
            replayed = replay(options.tables, seeds=options.seeds)
            print("\n".join(replay_lines(replayed)))
        if options.live:
            from benchmarks.live_suite import run_live

            lived = run_live(options.pairs, results=options.results, seeds=range(1, options.live_seeds + 1))
            print("\n".join(live_lines(lived)))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(as_json(replayed, lived))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=_WORDS, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for part in ("replay", "live", "check", "develop"):
        parser.add_argument(f"--{part}", action="store_true", help="run this part; without any, --replay")
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="re-splits of each table; default 200")
    parser.add_argument("--tables", type=Path, default=Path(__file__).parent / "tables", metavar="FOLDER")
    parser.add_argument("--pairs", type=Path, default=Path("pairs.yaml"), metavar="FILE", help="of --live")
    parser.add_argument("--results", type=Path, metavar="FILE", default=None, help="of --live; default in the cache")
    parser.add_argument("--live-seeds", type=int, default=3, metavar="N", help="runs of each pair; default 3")
    parser.add_argument("--json", action="store_true", help="print the results as JSON on the last line")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2")
    if options.live and not options.pairs.is_file():
        parser.error(f"--live needs --pairs: there is no file {options.pairs}")
    return options


if __name__ == "__main__":
    sys.exit(main())
