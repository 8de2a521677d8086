"""Publishing: only what a stored comparison still proves, once, against what is live now."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import msgspec
import pytest
from rich.console import Console

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.prompts import ANY_MODEL, PromptTemplate, PromptText
from rs_gateway.domain.publication import Action, Change
from rs_pipelines import results
from rs_pipelines.comparison import Comparison, decode_comparison, encode_comparison, sealed
from rs_pipelines.defs.instance import dagster_home
from rs_pipelines.defs.runs import optimize_in_process
from rs_pipelines.effort import Effort
from rs_pipelines.gate import ComparedRow, GatePolicy, judge
from rs_pipelines.progress import print_comparison
from rs_pipelines.publishing import NothingPublished, Published, publish
from tests.pipelines.parcels import LIVE, ORIGIN, TARGET, demo
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.upstream import Upstream

NOW = datetime(2026, 5, 1, tzinfo=UTC)
BETTER = PromptText(LIVE.instruction, LIVE.user, (demo(1), demo(2)))


@pytest.fixture
def registry(tmp_path: Path) -> PromptFiles:
    files = PromptFiles(tmp_path / "prompts")
    files.register(PromptTemplate("parcels", "Parcels", ("message",), {"name": "exact_match"}), LIVE, origin=ORIGIN)
    return files


def rows(*, won: int, tied: int = 40) -> tuple[ComparedRow, ...]:
    pairs = [(0.0, 1.0)] * won + [(1.0, 1.0)] * tied
    return tuple(ComparedRow(str(n), "x", a, b, "", "", 10, 20) for n, (a, b) in enumerate(pairs))


def comparison(*, won: int = 20, candidate: PromptText = BETTER) -> Comparison:
    compared, policy = rows(won=won), GatePolicy()
    found = Comparison(
        comparison_id="",
        target=TARGET,
        study_id="s1",
        sample_id="c1",
        live_version=1,
        live_hash=LIVE.content_hash,
        candidate_hash=candidate.content_hash,
        policy=policy,
        seed=0,
        verdict=judge(compared, live=LIVE, candidate=candidate, policy=policy, seed=0),
        by_label=(),
        rows=compared,
    )
    return sealed(found)


def stored(found: Comparison) -> Comparison:
    """The comparison as it is read from a file that says this."""
    return decode_comparison(encode_comparison(found))


def of_an_earlier_program(found: Comparison) -> bytes:
    """The file of the comparison as a program wrote it that knew fewer fields."""
    content = json.loads(encode_comparison(found))
    del content["by_provenance"], content["policy"]["max_loss"], content["verdict"]["guarded_low"]
    for row in content["rows"]:
        del row["live_cost_usd"], row["candidate_cost_usd"]
    sealed_content = msgspec.json.encode({**content, "comparison_id": ""}, order="sorted")
    return json.dumps({**content, "comparison_id": hashlib.sha256(sealed_content).hexdigest()[:32]}).encode()


def refused(result: Published | NothingPublished, reason: str, registry: PromptFiles) -> None:
    assert isinstance(result, NothingPublished)
    assert reason in " ".join(result.reasons)
    assert list(registry.get("parcels").versions) == [1]


def test_a_proven_candidate_goes_live_for_its_model_with_its_whole_provenance(registry: PromptFiles) -> None:
    proof = comparison()
    assert publish(proof, BETTER, registry, now=NOW) == Published(2, already=False)
    now = registry.get("parcels")
    live = now.live("tiny")
    assert live is not None
    assert (live.number, live.text, live.model) == (2, BETTER, "tiny")
    assert (live.origin.kind, live.origin.study_id, live.origin.comparison_id) == ("study", "s1", proof.comparison_id)
    change = now.history[-1]
    assert (change.action, change.by, change.previous, change.comparison_id) == (
        Action.PUBLISH,
        "gate",
        1,
        proof.comparison_id,
    )
    assert now.serving[ANY_MODEL] == 1


def test_publishing_twice_publishes_once(registry: PromptFiles) -> None:
    publish(comparison(), BETTER, registry, now=NOW)
    assert publish(comparison(), BETTER, registry, now=NOW) == Published(2, already=True)
    assert list(registry.get("parcels").versions) == [1, 2]


def test_publishing_again_after_a_rollback_changes_nothing(registry: PromptFiles) -> None:
    publish(comparison(), BETTER, registry, now=NOW)
    back = Change(Action.ROLLBACK, 1, "tiny", "someone", "2026-05-02T00:00:00+00:00", "it was rude", previous=2)
    registry.make_live("parcels", back)
    result = publish(comparison(), BETTER, registry, now=NOW)
    assert isinstance(result, NothingPublished)
    [reason] = result.reasons
    assert reason.startswith("Already published as version 2, and rolled back since: ")
    live = registry.get("parcels").live("tiny")
    assert live is not None
    assert live.number == 1


def test_another_proof_for_a_text_that_a_person_rolled_back_publishes_nothing_until_a_person_brings_it_back(
    registry: PromptFiles,
) -> None:
    publish(comparison(), BETTER, registry, now=NOW)
    back = Change(Action.ROLLBACK, 1, "tiny", "ann", "2026-05-02T00:00:00+00:00", "it was rude", previous=2)
    registry.make_live("parcels", back)
    again = comparison(won=25)
    result = publish(again, BETTER, registry, now=NOW)
    assert isinstance(result, NothingPublished)
    assert "Version 2 has this very text, and ann rolled it back on 2026-05-02" in result.reasons[0]
    assert list(registry.get("parcels").versions) == [1, 2]
    by_hand = Change(Action.PUBLISH, 2, "tiny", "ann", "2026-05-03T00:00:00+00:00", "I was wrong", previous=1)
    registry.make_live("parcels", by_hand)
    aside = Change(Action.PUBLISH, 1, "tiny", "ann", "2026-05-04T00:00:00+00:00", "for a comparison", previous=2)
    registry.make_live("parcels", aside)
    assert isinstance(publish(again, BETTER, registry, now=NOW), Published)


def test_optimizing_again_after_a_rollback_says_so_and_does_not_claim_a_publication(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        optimize_in_process(bench, target, Effort())
        assert "Proven gain" in results.reasons(bench, results.comparison_of(bench, target))[0]
        at = "2026-05-02T00:00:00+00:00"
        back = Change(Action.ROLLBACK, 1, target.model, "someone", at, "it was rude", previous=2)
        bench.registry.make_live("parcels", back)
        optimize_in_process(bench, target, Effort())
    console = Console(record=True, width=200)
    found = results.comparison_of(bench, target)
    reasons, published = results.reasons(bench, found), results.published_version(bench, found)
    print_comparison(console, found, published=published, reasons=reasons)
    assert "  - Already published as version 2, and rolled back since: " in console.export_text()
    assert bench.live(target).number == 1
    with dg.DagsterInstance.from_config(str(dagster_home(bench))) as instance:
        assert len(instance.fetch_materializations(dg.AssetKey("publication"), limit=5).records) == 1


def test_a_version_that_a_person_brought_back_counts_as_published(registry: PromptFiles) -> None:
    publish(comparison(), BETTER, registry, now=NOW)
    for version, previous in ((1, 2), (2, 1)):
        change = Change(Action.ROLLBACK, version, "tiny", "someone", "2026-05-02T00:00:00+00:00", "hm", previous)
        registry.make_live("parcels", change)
    assert publish(comparison(), BETTER, registry, now=NOW) == Published(2, already=True)


def test_after_a_newer_version_an_old_proof_is_not_called_rolled_back(registry: PromptFiles) -> None:
    publish(comparison(), BETTER, registry, now=NOW)
    newer = registry.add_version("parcels", PromptText("By hand", "{message}"), model="tiny", origin=ORIGIN)
    change = Change(Action.PUBLISH, newer.number, "tiny", "someone", "2026-05-02T00:00:00+00:00", "why not", previous=2)
    registry.make_live("parcels", change)
    result = publish(comparison(), BETTER, registry, now=NOW)
    assert isinstance(result, NothingPublished)
    assert not any("rolled back" in reason for reason in result.reasons)
    assert "version 3 is live now: compare again" in result.reasons[0]


def test_a_version_that_a_crash_left_behind_is_used(registry: PromptFiles) -> None:
    proof = comparison()
    origin = replace(ORIGIN, kind="study", study_id="s1", comparison_id=proof.comparison_id)
    registry.add_version("parcels", BETTER, model="tiny", origin=origin)
    assert publish(proof, BETTER, registry, now=NOW) == Published(2, already=False)


def test_no_proof_publishes_nothing_and_says_why(registry: PromptFiles) -> None:
    refused(publish(comparison(won=3), BETTER, registry, now=NOW), "No proven gain", registry)


def test_the_same_prompt_publishes_nothing(registry: PromptFiles) -> None:
    refused(publish(comparison(candidate=LIVE), LIVE, registry, now=NOW), "is the live prompt", registry)


def test_a_comparison_of_an_earlier_program_is_still_proof(registry: PromptFiles) -> None:
    found = decode_comparison(of_an_earlier_program(comparison()))
    assert publish(found, BETTER, registry, now=NOW) == Published(2, already=False)
    assert registry.get("parcels").history[-1].comparison_id == found.comparison_id


def test_a_comparison_of_an_earlier_program_that_was_changed_by_hand_publishes_nothing(registry: PromptFiles) -> None:
    changed = of_an_earlier_program(comparison()).replace(b'"seed": 0', b'"seed": 1')
    refused(publish(decode_comparison(changed), BETTER, registry, now=NOW), "was changed after it was made", registry)


def flag_set(found: Comparison) -> Comparison:
    return replace(found, verdict=replace(found.verdict, publish=True, reasons=("Proven gain.",)))


def better_rows(found: Comparison) -> Comparison:
    return replace(found, rows=rows(won=30))


def softer_policy(found: Comparison) -> Comparison:
    return replace(found, policy=GatePolicy(min_rows=1))


@pytest.mark.parametrize("tamper", [flag_set, better_rows, softer_policy])
def test_a_comparison_changed_by_hand_publishes_nothing(
    tamper: Callable[[Comparison], Comparison], registry: PromptFiles
) -> None:
    refused(
        publish(stored(tamper(comparison(won=3))), BETTER, registry, now=NOW), "was changed after it was made", registry
    )


def test_a_flag_without_rows_that_prove_it_publishes_nothing_even_when_sealed_again(registry: PromptFiles) -> None:
    refused(publish(sealed(flag_set(comparison(won=3))), BETTER, registry, now=NOW), "No proven gain", registry)


def for_cost(*, candidate_tokens: int) -> Comparison:
    policy = GatePolicy(objective="cost", max_loss=0.05)
    equal = tuple(
        ComparedRow(str(n), "x", 1.0, 1.0, "", "", 100, candidate_tokens, 5, 5, 120e-6, candidate_tokens * 1e-6)
        for n in range(200)
    )
    verdict = judge(equal, live=LIVE, candidate=BETTER, policy=policy, seed=0)
    return sealed(replace(comparison(), policy=policy, rows=equal, verdict=verdict))


def test_for_cost_a_cheaper_prompt_goes_live_without_a_gain(registry: PromptFiles) -> None:
    assert publish(for_cost(candidate_tokens=60), BETTER, registry, now=NOW) == Published(2, already=False)
    assert "Cheaper and not worse" in registry.get("parcels").history[-1].reason


def test_for_cost_publishing_computes_the_saving_again(registry: PromptFiles) -> None:
    dear = for_cost(candidate_tokens=300)
    refused(publish(sealed(flag_set(dear)), BETTER, registry, now=NOW), "Not proven cheaper", registry)


def test_another_prompt_than_the_compared_one_is_not_published(registry: PromptFiles) -> None:
    other = PromptText("Something else", "{message}")
    refused(publish(comparison(), other, registry, now=NOW), "not the one that was compared", registry)


def test_a_proof_against_what_is_no_longer_live_publishes_nothing(registry: PromptFiles) -> None:
    newer = registry.add_version("parcels", PromptText("By hand", "{message}"), model=None, origin=ORIGIN)
    change = Change(Action.PUBLISH, newer.number, None, "someone", "2026-04-30T00:00:00+00:00", "why not", previous=1)
    registry.make_live("parcels", change)
    result = publish(comparison(), BETTER, registry, now=NOW)
    assert isinstance(result, NothingPublished)
    assert "version 2 is live now: compare again" in result.reasons[0]


def test_a_candidate_that_drops_a_variable_is_refused_at_the_last_door_too(registry: PromptFiles) -> None:
    bare = PromptText("Find it.", None, BETTER.demos)
    found = comparison(candidate=bare)
    lying = sealed(replace(found, verdict=replace(found.verdict, publish=True)))
    refused(publish(lying, bare, registry, now=NOW), "drops the variable message", registry)
