"""`/admin`: what an operator does to a running gateway. Every route needs a client key with the admin scope."""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Body, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt

from rs_gateway.api.schemas import ErrorBody
from rs_gateway.domain.errors import InvalidRequestError, TemplateInvalidError
from rs_gateway.domain.evaluation import names_python
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.ports import PromptRegistry
from rs_gateway.domain.prompts import ANY_MODEL, Demo, Origin, PromptText
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.live_changes import ByHand, publish_by_hand
from rs_gateway.live_changes import roll_back as roll_back_by_hand
from rs_gateway.serving import Serving
from rs_gateway.template_form import DemoForm, TemplateForm

router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    responses={status: {"model": ErrorBody} for status in (400, 401, 403, 404, 409, 429, 503)},
)


Model = Annotated[str | None, AfterValidator(lambda model: None if model == ANY_MODEL else model)]
"""As a client writes it: null, or `*` as `serving` shows it, is every model without a version of its own."""


def _without_default(schema: dict[str, Any]) -> None:
    """An omitted field has no fixed value: it is the live version's."""
    del schema["default"]


class VersionForm(BaseModel):
    """A new version. It is a draft until it is made live. What is omitted is taken over from the live version."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    instruction: str = Field(description="The system text, with {name} placeholders.")
    user: str | None = Field(
        default=None,
        description="The user text, before the client's own messages; null for none. Omitted: the live version's.",
        json_schema_extra=_without_default,
    )
    demos: tuple[DemoForm, ...] | None = Field(
        default=None,
        description="[] or null for none. Omitted: the live version's.",
        json_schema_extra=_without_default,
    )
    output: OutputFormat = Field(
        default=OutputFormat.BARE,
        description="How instruction and demos have the answer written. Omitted: as the live version has it.",
        json_schema_extra=_without_default,
    )
    nearest: StrictInt = Field(
        default=0,
        ge=0,
        description="How many of the demos are shown: those most like the input; 0 for all. Omitted: as the live "
        "version has it, where its demos are taken.",
        json_schema_extra=_without_default,
    )
    model: Model = Field(default=None, description="The model that it is meant for; null for any.")
    note: str | None = Field(default=None, description="For people, kept with the version.")
    drops_variables: StrictBool = Field(
        default=False, description="Take it although it does not use a variable that the live version uses."
    )

    def to_text(self, live: PromptText | None) -> tuple[PromptText, tuple[str, ...]]:
        """The text, not yet checked against the template, and which fields of it are `live`'s.

        Raises:
            InvalidRequestError: it drops a variable of `live`, or keeps demos of another output format.
            TemplateInvalidError: it is malformed.
        """
        demos = tuple(Demo(d.user, d.assistant) for d in self.demos or ())
        text = PromptText(self.instruction, self.user, demos, self.output, self.nearest)
        if live is None:
            return text, ()
        taken = {name: getattr(live, name) for name in ("user", "demos", "output") if name not in self.model_fields_set}
        if "demos" in taken and "nearest" not in self.model_fields_set:
            taken["nearest"] = live.nearest
        text = replace(text, **taken)
        if "demos" in taken and live.demos and text.output is not live.output:
            raise InvalidRequestError(
                f"The demos of the live version show the output format {live.output.value!r}, not "
                f"{text.output.value!r}: send `demos` that show it, or [] for none.",
                param="demos",
            )
        dropped = sorted(live.placeholders - text.placeholders)
        if dropped and not self.drops_variables:
            raise InvalidRequestError(
                f"The live version uses {', '.join(dropped)[:200]}, and this one does not: what clients send there "
                'would not reach the model. Use it, or send "drops_variables": true if that is meant.',
                param="drops_variables",
            )
        nothing = PromptText("")
        return text, tuple(name for name, value in taken.items() if value != getattr(nothing, name))


class LiveForm(BaseModel):
    """Making a version live by hand: on record with the key's name and the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: StrictInt = Field(ge=1, description="Its number.")
    model: Model = Field(default=None, description="Null: for every model without a version of its own.")
    reason: str = Field(min_length=1, max_length=2000, description="Kept in the history.")
    previous: StrictInt | None = Field(default=None, description="Refuse with 409 unless this version is live now.")


class RollbackForm(BaseModel):
    """Back to the version that served before the live one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: Model = Field(default=None, description="Null: for every model without a version of its own.")
    reason: str = Field(min_length=1, max_length=2000, description="Kept in the history.")


class WeightsForm(BaseModel):
    """Weights set at run time, over the configuration's; null takes one back."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] | None] = Field(
        min_length=1, description="Combination -> its share of the draw; 0 keeps it as a fallback."
    )
    reason: str = Field(min_length=1, max_length=2000, description="Kept in the history.")


@router.get("/templates", summary="Every template and what is live")
async def list_templates(request: Request) -> list[dict[str, Any]]:
    """Templates that cannot be read are listed with their problem."""
    state = await anyio.to_thread.run_sync(_registry(request).load)
    known = [_facts(t, state.problems.get(i)) for i, t in sorted(state.templates.items())]
    broken = sorted(state.problems.keys() - state.templates.keys())
    return known + [{"template_id": i, "problem": state.problems[i]} for i in broken]


@router.get("/templates/{template_id}", summary="One template: versions, what is live, who made it so")
async def show_template(template_id: str, request: Request) -> dict[str, Any]:
    """With the text of every version."""
    return _shown(await anyio.to_thread.run_sync(_registry(request).get, template_id))


@router.post("/templates", status_code=201, summary="Register a template; its first version is live at once")
async def register_template(form: TemplateForm, request: Request) -> dict[str, Any]:
    """The same keys as the file of `route-switch template register`."""
    template, text = form.to_template()
    if names_python(template.evaluator):
        raise TemplateInvalidError(
            "evaluator: Python code is never named over the API. Register this template on the gateway's machine, with "
            "`route-switch template register FILE`."
        )
    origin = Origin(kind="registered", by=_who(request), at=_now())
    registered = await anyio.to_thread.run_sync(lambda: _registry(request).register(template, text, origin=origin))
    return await _served(request, registered)


@router.post("/templates/{template_id}/versions", status_code=201, summary="Add a version, as a draft")
async def add_version(template_id: str, form: VersionForm, request: Request) -> dict[str, Any]:
    """Nothing is served until it is made live. An omitted `user`, `demos` or `output` is that of the version which is
    live for `model`, or for every model; `taken_over` says which were.
    """
    origin = Origin(kind="registered", by=_who(request), at=_now(), note=form.note)

    def add() -> dict[str, Any]:
        live = _registry(request).get(template_id).live(form.model if form.model is not None else ANY_MODEL)
        text, taken_over = form.to_text(live.text if live is not None else None)
        version = _registry(request).add_version(template_id, text, model=form.model, origin=origin)
        return {
            "template_id": template_id,
            "version": version.number,
            "content_hash": version.text.content_hash,
            "taken_over": {"version": live.number, "fields": taken_over} if live is not None and taken_over else None,
        }

    return await anyio.to_thread.run_sync(add)


@router.post("/templates/{template_id}/live", summary="Make a version live by hand")
async def make_live(template_id: str, form: LiveForm, request: Request) -> dict[str, Any]:
    """Without the gate's proof, and recorded as such. 409 when it is live already.

    For every model: `still_pinned` has those that keep a version of their own.
    """

    def change() -> RegisteredTemplate:
        return publish_by_hand(
            _registry(request),
            template_id,
            form.version,
            ByHand(_who(request), _now(), form.reason, form.model),
            runs_on=_models(request, template_id),
            previous=form.previous,
        )

    return await _served_to(request, await anyio.to_thread.run_sync(change), form.model)


@router.post("/templates/{template_id}/rollback", summary="Serve again what was served before")
async def roll_back(template_id: str, form: RollbackForm, request: Request) -> dict[str, Any]:
    """400 when there is nothing to go back to. For every model: `still_pinned`, as when a version is made live."""

    def change() -> RegisteredTemplate:
        by_hand = ByHand(_who(request), _now(), form.reason, form.model)
        return roll_back_by_hand(_registry(request), template_id, by_hand, runs_on=_models(request, template_id))

    return await _served_to(request, await anyio.to_thread.run_sync(change), form.model)


@router.put("/templates/{template_id}/weights", summary="Shift traffic between a template's combinations")
async def set_weights(template_id: str, form: WeightsForm, request: Request) -> dict[str, Any]:
    """Shown on `/status` as overridden."""
    serving: Serving = request.app.state.serving
    own = {c.combination_id for c in serving.served.combinations.values() if c.template_id == template_id}
    unknown = sorted(form.weights.keys() - own)

    def change() -> RegisteredTemplate:
        registered = _registry(request).get(template_id)
        if unknown:
            raise InvalidRequestError(
                f"Template {template_id!r} has no combination {', '.join(unknown)[:200]}; "
                f"it has {', '.join(sorted(own)) or 'none'}.",
                param="weights",
            )
        for combination_id, weight in form.weights.items():
            registered = _registry(request).set_weight(
                template_id,
                Change(
                    *(Action.WEIGHT, None, None, _who(request), _now(), form.reason),
                    combination_id=combination_id,
                    weight=weight,
                ),
            )
        return registered

    return await _served(request, await anyio.to_thread.run_sync(change))


@router.post("/reload", summary="Look at registry and configuration now")
async def reload(request: Request, _: Annotated[dict[str, Any] | None, Body()] = None) -> dict[str, Any]:
    """In this process; other workers do it within `gateway.refresh_seconds`."""
    serving: Serving = request.app.state.serving
    await serving.refresh()
    refused = serving.freshness.configuration_error or serving.freshness.registry_error
    if refused is not None:
        raise InvalidRequestError(f"What was served goes on being served: {refused}")
    return asdict(serving.freshness)


async def _served(request: Request, registered: RegisteredTemplate) -> dict[str, Any]:
    serving: Serving = request.app.state.serving
    await serving.refresh()
    return _shown(registered)


async def _served_to(request: Request, registered: RegisteredTemplate, model: str | None) -> dict[str, Any]:
    """The same after another version went live: whom a change for every model did not reach."""
    answer = await _served(request, registered)
    return answer if model is not None else {**answer, "still_pinned": registered.own_versions}


def _models(request: Request, template_id: str) -> set[str]:
    serving: Serving = request.app.state.serving
    return {c.model for c in serving.served.combinations.values() if c.template_id == template_id}


def _registry(request: Request) -> PromptRegistry:
    return request.app.state.registry


def _who(request: Request) -> str:
    return f"key {request.state.admin.name} ({request.state.admin.key_id})"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _facts(registered: RegisteredTemplate, problem: str | None) -> dict[str, Any]:
    return {
        "template_id": registered.template.template_id,
        "name": registered.template.name,
        "versions": len(registered.versions),
        "serving": dict(registered.serving),
        "weights": dict(registered.weights),
        "problem": problem,
    }


def _shown(registered: RegisteredTemplate) -> dict[str, Any]:
    return {
        "template": asdict(registered.template),
        "serving": dict(registered.serving),
        "weights": dict(registered.weights),
        "versions": [
            {**asdict(v), "content_hash": v.text.content_hash} for _, v in sorted(registered.versions.items())
        ],
        "history": [asdict(change) for change in registered.history],
    }
