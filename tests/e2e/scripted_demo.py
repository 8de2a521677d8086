"""`route-switch` whose demo asks a scripted model, slow by $DELAY_S seconds a call, and sends fewer messages."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rs_gateway.__main__ import main
from rs_pipelines import demo

N_MESSAGES = 120


def scripted_model(folder: Path, say: Callable[[str], None]) -> demo.ModelCommand:
    def command(port: int) -> Sequence[str]:
        return [sys.executable, str(Path(__file__).with_name("ticket_model.py")), str(port), os.environ["DELAY_S"]]

    return command


if __name__ == "__main__":
    demo.run_demo = partial(demo.run_demo, get_model=scripted_model, n_messages=N_MESSAGES)
    main()
