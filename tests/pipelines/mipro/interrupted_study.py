"""Run as a process by the tests: one study with slow calls, each noted in a file, to be killed in the middle.

Usage: python -m tests.pipelines.mipro.interrupted_study FOLDER [HOLD_AT]

From call HOLD_AT on, those of earlier lives counted, the model says nothing more: it cannot end before it is killed.
"""

import math
import sys
from pathlib import Path

import anyio

from rs_gateway.adapters.scripted_chat import Reply, ScriptedChat, ScriptedReply
from rs_gateway.domain.chat import ProviderCall
from rs_pipelines.mipro.search import run_study
from rs_pipelines.studies import StudyFiles
from tests.pipelines.parcels import EVALUATOR, cache_at, models, request, tiny_model


def main(folder: Path, hold_at: float) -> None:
    n_calls = _n_lines(folder / "calls.log")
    with (folder / "calls.log").open("a", buffering=1, encoding="utf-8") as log:

        def noted(call: ProviderCall) -> Reply:
            nonlocal n_calls
            log.write("call\n")
            n_calls += 1
            reply = tiny_model(call)
            latency_s = 0.003 if n_calls < hold_at else 600
            return ScriptedReply(reply, latency_s=latency_s) if isinstance(reply, str) else reply

        async def study() -> None:
            asked = models(ScriptedChat(noted), cache_at(folder), concurrency=4)
            await run_study(request(), asked, evaluator=EVALUATOR, files=StudyFiles(folder / "studies"))

        anyio.run(study)


def _n_lines(log: Path) -> int:
    return log.read_text(encoding="utf-8").count("\n") if log.exists() else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else math.inf)
