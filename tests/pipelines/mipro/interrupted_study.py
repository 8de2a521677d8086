"""Run as a process by the tests: one study with slow calls, each noted in a file, to be killed in the middle.

Usage: python -m tests.pipelines.mipro.interrupted_study FOLDER
"""

import sys
from pathlib import Path

import anyio

from rs_gateway.adapters.scripted_chat import Reply, ScriptedChat, ScriptedReply
from rs_gateway.domain.chat import ProviderCall
from rs_pipelines.mipro.search import run_study
from rs_pipelines.studies import StudyFiles
from tests.pipelines.parcels import EVALUATOR, cache_at, models, request, tiny_model


def main(folder: Path) -> None:
    with (folder / "calls.log").open("a", buffering=1, encoding="utf-8") as log:

        def noted(call: ProviderCall) -> Reply:
            log.write("call\n")
            reply = tiny_model(call)
            return ScriptedReply(reply, latency_s=0.003) if isinstance(reply, str) else reply

        async def study() -> None:
            asked = models(ScriptedChat(noted), cache_at(folder), concurrency=4)
            await run_study(request(), asked, evaluator=EVALUATOR, files=StudyFiles(folder / "studies"))

        anyio.run(study)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
