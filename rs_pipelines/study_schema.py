"""What the files of studies look like as a whole, and how older ones get there."""

import json
from pathlib import Path

from rs_gateway.adapters.file_schema import FileSchema
from rs_pipelines.durable_files import write_durably

_PLANS_OF_SCHEMA_1 = {"wide_demos": 0, "nearest_pool": 0, "search": "tpe"}
"""What a plan did not say when it said nothing about races and larger demo sets."""


def _complete_plans(root: Path) -> None:
    for path in sorted(root.glob("*/*/study.json")):
        try:
            study = json.loads(path.read_bytes())
        except ValueError:  # reading it will say what is wrong
            continue
        if not isinstance(study, dict) or not isinstance(study.get("plan"), dict):  # so it will here
            continue
        plan = {**_PLANS_OF_SCHEMA_1, **study["plan"]}
        if plan != study["plan"]:
            write_durably(path, json.dumps({**study, "plan": plan}, indent=1, ensure_ascii=False).encode())


STUDY_SCHEMA = FileSchema("folder of studies", "data_dir", (_complete_plans,))
"""Forward only: append, never edit. comparison.json stays as it is: the id of a comparison stands for its content."""
