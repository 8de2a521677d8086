"""`/admin/keys`: client keys over HTTP, as `route-switch keys` has them."""

import time
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, StrictInt

from rs_gateway.access import Access
from rs_gateway.api.schemas import ErrorBody
from rs_gateway.domain.access import BudgetPeriod, ClientKey, KeyLimits
from rs_gateway.domain.access_store import AccessStore
from rs_gateway.domain.traces import StoreMode
from rs_gateway.keys import Grant, find_key, issue_key, key_facts, record_facts, revoke_key, update_key

router = APIRouter(
    prefix="/admin/keys",
    tags=["admin"],
    responses={status: {"model": ErrorBody} for status in (400, 401, 403, 404, 429, 503)},
)

_Names = Annotated[frozenset[Annotated[str, Field(min_length=1)]], Field(max_length=1000)]


class LimitsForm(BaseModel):
    """Null is no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    requests_per_minute: StrictInt | None = Field(default=None, ge=1, description="A bucket that fills evenly.")
    tokens_per_minute: StrictInt | None = Field(default=None, ge=1, description="Counted when a request ends.")
    concurrency: StrictInt | None = Field(default=None, ge=1, description="Requests in flight.")
    budget_usd: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        strict=True,
        description="What its requests may cost in a `budget_period`.",
    )
    budget_period: BudgetPeriod = Field(default="total", description="In UTC; `total` never begins anew.")
    allow_unpriced: StrictBool = Field(
        default=False, description="Whether it may ask, on a budget, for models without a price."
    )

    def to_limits(self) -> KeyLimits:
        """As the domain has them."""
        return KeyLimits(**self.model_dump())


class KeyForm(BaseModel):
    """A key to be made. Null scopes are everything, empty ones nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(min_length=1, max_length=200, description="Who or what it is for.")
    templates: _Names | None = Field(default=None, description="Templates that it may ask for; null: all.")
    models: _Names | None = Field(default=None, description="Models that it may ask for without a template; null: all.")
    admin: StrictBool = Field(default=False, description="Whether it opens the admin API.")
    limits: LimitsForm = LimitsForm()
    store: StoreMode | None = Field(default=None, description="How much is kept of its requests, at most.")
    expires_at: AwareDatetime | None = Field(default=None, description="Null: never.")


class KeyChange(BaseModel):
    """What to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(default="", min_length=1, max_length=200, description="Who or what it is for.")
    templates: _Names | None = Field(default=None, description="Templates that it may ask for; null: all.")
    models: _Names | None = Field(default=None, description="Models that it may ask for without a template; null: all.")
    admin: StrictBool = Field(default=False, description="Whether it opens the admin API.")
    limits: LimitsForm | None = Field(default=None, description="All of them at once; null lifts all.")
    store: StoreMode | None = Field(default=None, description="How much is kept of its requests, at most.")
    expires_at: AwareDatetime | None = Field(default=None, description="Null: never.")


@router.get("", summary="Every key, and what it has used")
async def list_keys(request: Request) -> list[dict[str, Any]]:
    """Without secrets: only their hashes are stored."""
    now_s = time.time()
    records = await anyio.to_thread.run_sync(lambda: _store(request).records(now_s=now_s))
    return [record_facts(record, now_s=now_s) for record in records]


@router.post("", status_code=201, summary="Make a key; its secret is in this answer and nowhere else")
async def create_key(form: KeyForm, request: Request) -> dict[str, Any]:
    """`key` is what clients send. Naming only one of `templates` and `models` closes the other, as in the terminal."""
    now_s = time.time()
    sent = form.model_fields_set
    templates = frozenset[str]() if "models" in sent and "templates" not in sent else form.templates
    models = frozenset[str]() if "templates" in sent and "models" not in sent else form.models
    grant = Grant(
        name=form.name,
        templates=templates,
        models=models,
        admin=form.admin,
        limits=form.limits.to_limits(),
        store=form.store,
        expires_at=_epoch(form.expires_at),
    )
    by = f"key {request.state.admin.key_id}"
    issued = await anyio.to_thread.run_sync(lambda: issue_key(_store(request), grant, by=by, now_s=now_s))
    await _access(request).sync()
    return {**key_facts(issued.key, now_s=now_s), "key": issued.secret}


@router.get("/{key_id}", summary="One key, and what it has used")
async def show_key(key_id: str, request: Request) -> dict[str, Any]:
    """Usage of today, this month, and of all time."""
    now_s = time.time()
    records = await anyio.to_thread.run_sync(lambda: _store(request).records(now_s=now_s))
    return record_facts(find_key(records, key_id), now_s=now_s)


@router.patch("/{key_id}", summary="Change what a key may do")
async def change_key(key_id: str, form: KeyChange, request: Request) -> dict[str, Any]:
    """A null that is sent is a value: it lifts a limit or opens a scope."""

    def changed(key: ClientKey) -> ClientKey:
        sent = {name: getattr(form, name) for name in form.model_fields_set}
        if "limits" in sent:
            sent["limits"] = form.limits.to_limits() if form.limits is not None else KeyLimits()
        if "expires_at" in sent:
            sent["expires_at"] = _epoch(form.expires_at)
        return replace(key, **sent)

    key = await anyio.to_thread.run_sync(lambda: update_key(_store(request), key_id, changed))
    await _access(request).sync()
    return key_facts(key, now_s=time.time())


@router.delete("/{key_id}", summary="Revoke a key for good")
async def delete_key(key_id: str, request: Request) -> dict[str, Any]:
    """Its account is kept. Other workers refuse it within `access.sync_interval_seconds`."""
    now_s = time.time()
    key = await anyio.to_thread.run_sync(lambda: revoke_key(_store(request), key_id, now_s=now_s))
    await _access(request).sync()
    return key_facts(key, now_s=now_s)


def _store(request: Request) -> AccessStore:
    return request.app.state.access_store


def _access(request: Request) -> Access:
    return request.app.state.access


def _epoch(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
