"""Who is let in: keys, scopes, limits and budgets, in one worker and in several."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.access import public_address_allowed
from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.domain.access import OPEN, KeyLimits
from rs_gateway.domain.errors import (
    BudgetExceededError,
    ForbiddenError,
    RateLimitedError,
    UnauthorizedError,
)
from rs_gateway.domain.traces import StoreMode
from rs_gateway.keys import revoke_key
from tests.access_fakes import Headers, World, admitted, bearer, spend, sync


@pytest.fixture
def world() -> World:
    return World()


# Who is let in


def test_without_any_key_everybody_may_do_everything(world: World) -> None:
    access = world.worker()
    assert not access.required
    assert access.admit([]) is OPEN
    assert access.admit(bearer("whatever")) is OPEN
    assert access.identify([]) is None


def test_with_a_key_only_its_holder_gets_in(world: World) -> None:
    key = world.issue(store=StoreMode.METRICS)
    access = world.worker()
    assert access.required
    admission = access.admit(bearer(key))
    assert (admission.key_id, admission.store) == (key.key.key_id, StoreMode.METRICS)
    with pytest.raises(UnauthorizedError, match="needs a client key"):
        access.admit([(b"host", b"gateway")])
    with pytest.raises(UnauthorizedError, match="not known here"):
        access.admit(bearer(key.secret + "x"))


@pytest.mark.parametrize("header", [b"x-api-key", b"api-key"])
def test_the_headers_of_anthropic_and_azure_clients_are_read_too(world: World, header: bytes) -> None:
    key = world.issue()
    access = world.worker()
    secret = key.secret.encode()
    assert access.admit([(header, secret)]).key_id == key.key.key_id
    assert access.admit([(header, secret), (b"authorization", b"bearer " + secret)]).key_id == key.key.key_id


def test_two_keys_are_refused_even_if_one_of_them_is_right(world: World) -> None:
    key = world.issue()
    access = world.worker()
    right = (b"authorization", b"Bearer " + key.secret.encode())
    for headers in ([right, right], [right, (b"x-api-key", b"rs-another")], [(b"api-key", b""), right]):
        with pytest.raises(UnauthorizedError, match="more than one client key"):
            access.admit(headers)


SECRET = b"rs-0123456789-thisisnotakey"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer " + SECRET), (b"authorization", b"Bearer " + SECRET)],
        [(b"authorization", b"Bearer " + SECRET), (b"x-api-key", b"rs-another")],
        [(b"x-api-key", SECRET), (b"api-key", SECRET + b"!")],
        [(b"authorization", b"Basic " + SECRET)],
        [(b"authorization", SECRET)],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer " + SECRET * 100_000)],
        [(b"authorization", b"Bearer \xff\xfe\x00" + SECRET)],
        [(b"authorization", "Bearer клюц".encode())],
    ],
)
def test_hostile_headers_are_refused_and_never_repeated(world: World, headers: Headers) -> None:
    world.issue()
    with pytest.raises(UnauthorizedError) as refusal:
        world.worker().admit(headers)
    assert "thisisnotakey" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@given(
    st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"a"]), st.binary()), max_size=4)
)
def test_whatever_the_headers_are_nobody_gets_in_without_the_key(headers: Headers) -> None:
    world = World()
    world.issue()
    with pytest.raises(UnauthorizedError):
        world.worker().admit(headers)


def test_a_key_is_random_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    world = World(SqliteAccessStore(tmp_path / "access.db"))
    one, two = world.issue(), world.issue()
    world.store.close()
    assert one.secret.startswith(f"rs-{one.key.key_id}-")
    assert len(one.secret) == len(f"rs-{one.key.key_id}-") + 43  # 256 bits in base64
    assert one.secret[-43:] != two.secret[-43:]
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert hashlib.sha256(one.secret.encode()).digest() in stored
    assert one.secret[-43:].encode() not in stored


def test_an_expired_key_is_told_so(world: World) -> None:
    key = world.issue(expires_at=world.clock() + 60)
    access = world.worker()
    access.admit(bearer(key))
    world.clock.pass_s(60)
    with pytest.raises(UnauthorizedError, match=r"expired on 2023-11-15 12:01 UTC"):
        access.admit(bearer(key))


def test_a_revoked_key_stops_working_within_one_sync_and_the_gateway_stays_closed(world: World) -> None:
    key = world.issue()
    access = world.worker()
    revoke_key(world.store, key.key.key_id, now_s=world.clock())
    access.admit(bearer(key)).settle(tokens=1, cost_usd=None)
    sync(access)
    with pytest.raises(UnauthorizedError, match="revoked"):
        access.admit(bearer(key))
    with pytest.raises(UnauthorizedError):
        access.admit([])
    with pytest.raises(UnauthorizedError):
        world.worker().admit([])  # after a restart, too


def test_the_first_key_closes_a_running_gateway_within_one_sync(world: World) -> None:
    access = world.worker()
    key = world.issue()
    assert access.admit([]) is OPEN
    sync(access)
    with pytest.raises(UnauthorizedError):
        access.admit([])
    assert access.admit(bearer(key)).key_id == key.key.key_id


def test_a_store_that_vanished_does_not_open_the_gateway(tmp_path: Path) -> None:
    world = World(SqliteAccessStore(tmp_path / "access.db"))
    key = world.issue()
    access = world.worker()
    for path in tmp_path.iterdir():
        path.unlink()
    sync(access)
    assert access.error is not None
    assert "is gone" in access.error
    assert access.admit(bearer(key)).key_id == key.key.key_id
    with pytest.raises(UnauthorizedError):
        access.admit([])
    # Somebody puts an empty one in its place: the keys are gone, and still nobody gets in without one.
    SqliteAccessStore(tmp_path / "access.db").close()
    sync(access)
    assert access.error is None
    for headers in ([], bearer(key)):
        with pytest.raises(UnauthorizedError):
            access.admit(headers)
    world.store.close()


def test_a_public_address_needs_an_active_key(world: World) -> None:
    assert not public_address_allowed(world.store, now_s=world.clock())
    key = world.issue(expires_at=world.clock() + 60)
    assert public_address_allowed(world.store, now_s=world.clock())
    assert not public_address_allowed(world.store, now_s=world.clock() + 60)
    revoke_key(world.store, key.key.key_id, now_s=world.clock())
    assert not public_address_allowed(world.store, now_s=world.clock())


# Scopes


@pytest.mark.parametrize(
    ("templates", "models", "template_id", "model", "allowed"),
    [
        (None, None, "support", "gpt", True),
        (None, None, None, "gpt", True),
        ({"support"}, set(), "support", "gpt", True),
        ({"support"}, set(), "orders", "gpt", False),
        ({"support"}, set(), None, "gpt", False),
        (set(), {"gpt"}, None, "gpt", True),
        (set(), {"gpt"}, None, "other", False),
        (set(), {"gpt"}, "support", "gpt", False),
        (set(), set(), None, "gpt", False),
    ],
)
def test_templates_judge_templates_and_models_judge_bare_models(
    world: World,
    templates: set[str] | None,
    models: set[str] | None,
    template_id: str | None,
    model: str,
    allowed: bool,
) -> None:
    key = world.issue(
        templates=None if templates is None else frozenset(templates),
        models=None if models is None else frozenset(models),
    )
    admission = world.worker().admit(bearer(key))
    if allowed:
        admission.check(template_id=template_id, model=model)
        return
    with pytest.raises(ForbiddenError) as refusal:
        admission.check(template_id=template_id, model=model)
    assert repr(template_id or model) in str(refusal.value)


def test_the_admin_api_wants_an_admin_key(world: World) -> None:
    access = world.worker()
    with pytest.raises(ForbiddenError, match=r"keys create NAME --admin"):
        access.require_admin([])
    plain, admin = world.issue(), world.issue(admin=True)
    sync(access)
    assert access.require_admin(bearer(admin)) == admin.key
    with pytest.raises(ForbiddenError, match="no admin key"):
        access.require_admin(bearer(plain))
    with pytest.raises(UnauthorizedError):
        access.require_admin([])
    revoke_key(world.store, admin.key.key_id, now_s=world.clock())
    sync(access)
    with pytest.raises(UnauthorizedError, match="revoked"):
        access.require_admin(bearer(admin))


def test_asking_the_admin_api_counts_against_no_limit(world: World) -> None:
    admin = world.issue(admin=True, limits=KeyLimits(requests_per_minute=1))
    access = world.worker()
    for _ in range(5):
        access.require_admin(bearer(admin))
    assert len(admitted(access, admin, 5)) == 1


# Limits


def test_requests_beyond_the_rate_wait_as_long_as_they_are_told(world: World) -> None:
    key = world.issue(limits=KeyLimits(requests_per_minute=3))
    access = world.worker()
    for _ in range(3):
        spend(access, key)
    with pytest.raises(RateLimitedError, match="3 requests a minute") as refusal:
        access.admit(bearer(key))
    assert refusal.value.retry_after_s == pytest.approx(20)
    world.clock.pass_s(refusal.value.retry_after_s)
    spend(access, key)
    with pytest.raises(RateLimitedError):
        access.admit(bearer(key))


def test_tokens_are_counted_afterwards_and_their_debt_delays_the_next_request(world: World) -> None:
    key = world.issue(limits=KeyLimits(tokens_per_minute=600))
    access = world.worker()
    spend(access, key, tokens=900)
    with pytest.raises(RateLimitedError, match="600 tokens a minute") as refusal:
        access.admit(bearer(key))
    assert refusal.value.retry_after_s == pytest.approx(30.1)
    world.clock.pass_s(30.2)
    access.admit(bearer(key))


def test_a_stream_holds_its_place_until_it_is_settled_and_only_once(world: World) -> None:
    key = world.issue(limits=KeyLimits(concurrency=2))
    access = world.worker()
    first, second = admitted(access, key, 5)
    with pytest.raises(RateLimitedError, match="2 requests in flight"):
        access.admit(bearer(key))
    for _ in range(3):
        first.settle(tokens=0, cost_usd=None)
    assert len(admitted(access, key, 5)) == 1
    second.settle(tokens=0, cost_usd=None)


def test_a_refused_request_uses_up_nothing(world: World) -> None:
    key = world.issue(limits=KeyLimits(requests_per_minute=10, concurrency=1))
    access = world.worker()
    admission = access.admit(bearer(key))
    for _ in range(50):
        with pytest.raises(RateLimitedError, match="in flight"):
            access.admit(bearer(key))
    admission.settle(tokens=0, cost_usd=None)
    spend(access, key)


def test_keys_do_not_share_limits(world: World) -> None:
    one, two = (world.issue(limits=KeyLimits(requests_per_minute=1, concurrency=1)) for _ in range(2))
    access = world.worker()
    assert len(admitted(access, one, 2)) == 1
    assert len(admitted(access, two, 2)) == 1


def test_counts_of_a_provider_that_lies_are_no_refund(world: World) -> None:
    key = world.issue(limits=KeyLimits(tokens_per_minute=10, budget_usd=1.0))
    access = world.worker()
    spend(access, key, tokens=10, cost_usd=0.5)
    world.clock.pass_s(120)
    spend(access, key, tokens=-1_000_000, cost_usd=-1_000.0)
    spend(access, key, tokens=20, cost_usd=0.5)
    with pytest.raises(BudgetExceededError):
        access.admit(bearer(key))


# Budgets


@pytest.mark.parametrize(("period", "anew"), [("day", 43_200), ("month", 15.5 * 86_400)])
def test_a_budget_starts_anew_with_its_period(world: World, period: str, anew: float) -> None:
    key = world.issue(limits=KeyLimits(budget_usd=1.0, budget_period=period))  # pyright: ignore[reportArgumentType]
    access = world.worker()
    spend(access, key, cost_usd=0.6)
    spend(access, key, cost_usd=0.6)
    with pytest.raises(BudgetExceededError, match=r"1\.2000 of 1 USD this " + period):
        access.admit(bearer(key))
    sync(access)
    world.clock.pass_s(anew - 1)
    with pytest.raises(BudgetExceededError):
        access.admit(bearer(key))
    world.clock.pass_s(2)
    spend(access, key, cost_usd=1.0)
    sync(access)
    with pytest.raises(BudgetExceededError):
        access.admit(bearer(key))


def test_what_was_spent_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "access.db"
    world = World(SqliteAccessStore(path))
    key = world.issue(limits=KeyLimits(budget_usd=1.0, requests_per_minute=3))
    access = world.worker()
    spend(access, key, tokens=5, cost_usd=0.6)
    sync(access)
    spend(access, key, tokens=5, cost_usd=0.3)
    asyncio.run(access.aclose())

    again = World(SqliteAccessStore(path))
    restarted = again.worker()
    spend(restarted, key, tokens=5, cost_usd=0.2)
    with pytest.raises(BudgetExceededError, match=r"1\.1000 of 1 USD"):
        restarted.admit(bearer(key))
    asyncio.run(restarted.aclose())


def test_the_rate_survives_a_restart_too(world: World) -> None:
    key = world.issue(limits=KeyLimits(requests_per_minute=2))
    access = world.worker()
    spend(access, key)
    spend(access, key)
    sync(access)
    with pytest.raises(RateLimitedError):
        world.worker().admit(bearer(key))


def test_a_key_with_a_budget_cannot_ask_for_a_model_without_a_price(world: World) -> None:
    plain, bound = world.issue(), world.issue(limits=KeyLimits(budget_usd=1.0))
    daring = world.issue(limits=KeyLimits(budget_usd=1.0, allow_unpriced=True))
    access = world.worker(is_priced=lambda model: model == "priced")
    access.admit(bearer(bound)).check(template_id="support", model="priced")
    with pytest.raises(ForbiddenError, match=r"'mystery'.*--allow-unpriced"):
        access.admit(bearer(bound)).check(template_id="support", model="mystery")
    for key in (plain, daring):
        access.admit(bearer(key)).check(template_id=None, model="mystery")


def test_requests_of_unknown_cost_are_counted_as_such_and_failed_ones_are_not(world: World) -> None:
    key = world.issue()
    access = world.worker()
    spend(access, key, tokens=10, cost_usd=None)
    spend(access, key, tokens=10, cost_usd=0.0)
    spend(access, key, tokens=0, cost_usd=None)
    sync(access)
    (record,) = world.store.records(now_s=world.clock())
    assert (record.usage["total"].requests, record.usage["total"].unpriced_requests) == (3, 1)
