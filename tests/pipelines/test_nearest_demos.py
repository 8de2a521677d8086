"""Versions that show each request the demos most like it: what the search scored is what the gateway serves."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.prompts import Demo, PromptTemplate, PromptText
from rs_gateway.domain.publication import Action, Change
from rs_gateway.wiring import open_registry
from rs_pipelines import steps
from rs_pipelines.mipro.formats import in_format
from rs_pipelines.sample import Example, Split
from rs_pipelines.scoring import score_rows
from tests import upstream as wire
from tests.pipelines.parcels import EVALUATOR, ORIGIN, cache_at, model
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.running import running_gateway
from tests.upstream import Upstream

TOPICS = ("我要退款", "包裹还没有到", "พัสดุยังไม่มา", "ลืมรหัสผ่าน", "refund my order", "the parcel is late")
DEMOS = tuple(Demo(topic, f"label {n}") for n, topic in enumerate(TOPICS))
PARTS = [{"type": "text", "text": "包裹"}, {"type": "text", "text": "在哪里"}]
TEXTS = {
    "in-user-text": PromptText("Sort it.", "{message}", DEMOS, nearest=2),
    "in-messages": PromptText("Sort it.", None, DEMOS, nearest=2),
    "in-messages-after-a-fixed-text": PromptText("Sort {message}.", "One word.", DEMOS, nearest=2),
    "in-instruction": PromptText("Sort {message}.", "One word.", DEMOS, nearest=2),
}
ROWS: list[tuple[str, dict[str, str], list[dict[str, Any]]]] = [
    *(("in-user-text", {"message": asked}, []) for asked in ("我的包裹", "รหัสผ่าน", "REFUND!", "\uff30arcel", "")),
    *(("in-messages", {}, [{"role": "user", "content": asked}]) for asked in ("退款", "พัสดุ", "nothing like it")),
    ("in-messages", {}, [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "我要退款"}]),
    ("in-messages-after-a-fixed-text", {"message": "refund"}, [{"role": "user", "content": "我的包裹"}]),
    ("in-instruction", {"message": "my password, ลืมรหัสผ่าน"}, []),
]


@pytest.mark.parametrize("output", [OutputFormat.BARE, OutputFormat.LABELLED])
def test_serving_shows_the_very_demos_that_the_search_scored(tmp_path: Path, output: OutputFormat) -> None:
    texts = {template_id: in_format(text, output) for template_id, text in TEXTS.items()}
    chat = ScriptedChat(lambda call: "label 1")

    async def score() -> None:
        asked = model(chat, cache_at(tmp_path), concurrency=1)
        for n, (template_id, variables, messages) in enumerate(ROWS):
            row = Example(f"e{n}", variables, tuple(messages), "label 1", "human", Split.VAL)
            await score_rows(texts[template_id], [row], template_id=template_id, model=asked, evaluator=EVALUATOR)

    anyio.run(score)
    registry = PromptFiles(tmp_path / "data/prompts")
    for template_id, text in texts.items():
        template = PromptTemplate(template_id, "", tuple(text.placeholders), {"name": "ExactMatch"})
        registry.register(template, text, origin=ORIGIN)
    with Upstream([wire.answers("label 1")]).running() as up:
        combinations = [{"id": name, "template_id": name, "model": "m", "provider": "p"} for name in texts]
        configuration = {
            "model_providers": {"p": {"base_url": up.base_url}},
            "gateway": {"combinations": combinations},
        }
        with running_gateway(tmp_path, configuration) as gateway:
            for template_id, variables, messages in ROWS:
                body = {"model": template_id, "messages": messages, "variables": variables}
                assert gateway.ask(body).status_code == 200
    assert [body["messages"] for body in up.requests] == [list(call.messages) for call in chat.calls]
    shown = {tuple(m["content"] for m in body["messages"] if m["content"] in TOPICS) for body in up.requests}
    assert len(shown) > 4


def test_a_search_for_nearest_demos_is_refused_where_nothing_tells_the_rows_apart(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream, mipro_v2={"nearest_demos": True})
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        steps.draw(bench, target)
        registry = open_registry(bench.settings)
        text = PromptText("Find the parcel number in: {message}", "Answer now.")
        registry.add_version("parcels", text, model=None, origin=ORIGIN)
        registry.make_live("parcels", Change(Action.PUBLISH, 2, None, "jane", "now", "shorter", previous=1))
        assert bench.live(target).text == text
        with pytest.raises(ConfigurationError, match=r"nearest_demos .* Put a variable into the user text"):
            steps.preflight(bench, target)
    assert upstream.requests == []
