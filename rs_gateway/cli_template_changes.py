"""`route-switch template publish | rollback | edit`: what a person decides, with a reason that is kept."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_gateway.cli_options import ConfigOption, JsonOption, TemplateArgument
from rs_gateway.completions import version_numbers
from rs_gateway.current_user import current_user
from rs_gateway.data_console import print_json, words
from rs_gateway.domain.errors import InvalidRequestError, RouteSwitchError

if TYPE_CHECKING:
    from rs_gateway.domain.registered_template import RegisteredTemplate
    from rs_gateway.live_changes import ByHand
    from rs_gateway.settings import Settings

ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the template's history.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="For this model alone; else for all without a version of their own.")
]
_STANDARD_INPUT = Path("-")


def publish_version(
    template_id: TemplateArgument,
    version: Annotated[int, typer.Argument(min=1, help="The version to make live.", autocompletion=version_numbers)],
    reason: ReasonOption,
    model: ModelOption = None,
    previous: Annotated[int | None, typer.Option(min=1, help="Refuse unless this version is live now.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version live by hand: on record with your name, the time and the reason, and as not proven.

    `route-switch optimize` publishes what it has proven by itself. A running gateway serves the change at its next
    refresh.

    Example: `route-switch template publish support 3 --reason "shorter answers, agreed with support"`
    """
    from rs_gateway.live_changes import publish_by_hand
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import open_registry

    settings = load_settings(config)
    changed = publish_by_hand(
        open_registry(settings),
        template_id,
        version,
        _by_hand(reason, model),
        runs_on=_models(settings, template_id),
        previous=previous,
    )
    _say(changed, as_json=as_json)


def roll_back_template(
    template_id: TemplateArgument,
    reason: ReasonOption,
    model: ModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve again what served before the live version; a search does not bring back what you rolled back.

    Example: `route-switch template rollback support --reason "wrong on refunds"`
    """
    from rs_gateway.live_changes import roll_back
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import open_registry

    settings = load_settings(config)
    changed = roll_back(
        open_registry(settings), template_id, _by_hand(reason, model), runs_on=_models(settings, template_id)
    )
    _say(changed, as_json=as_json)


def edit_template(
    template_id: TemplateArgument,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Begin with this version.  [default: the live one]", autocompletion=version_numbers),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model that the new version is for.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Take the text from this YAML file, - for stdin, instead of an editor.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="A note for people, kept with the version.")] = None,
    drop_variables: Annotated[
        bool, typer.Option("--drop-variables", help="Accept a text that leaves out a variable of the old one.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a new version in your editor, beginning with the live one. It is a draft until it is published.

    The editor is $VISUAL, $EDITOR or vi. A text that cannot be a version is kept, and you are told where.

    Example: `EDITOR=nano route-switch template edit support --note "friendlier"`
    """
    from rs_gateway.domain.prompts import ANY_MODEL, Origin
    from rs_gateway.settings import load_settings
    from rs_gateway.text_editor import edited_in_editor
    from rs_gateway.version_texts import dropped_variables, edited_text, live_version, text_yaml, version_of
    from rs_gateway.wiring import open_registry

    settings = load_settings(config)
    registry = open_registry(settings)
    registered = registry.get(template_id)
    base = live_version(registered, model or ANY_MODEL) if version is None else version_of(registered, version)
    draft = edited_in_editor(text_yaml(base.text), suffix=".yaml") if file is None else file
    try:
        text = edited_text(_read(draft), base.text)
        if text.content_hash == base.text.content_hash:
            _print_edited(template_id, version=None, base=base.number, as_json=as_json)
        else:
            dropped = dropped_variables(base.text, text)
            if dropped and not drop_variables:
                raise InvalidRequestError(
                    f"Version {base.number} uses {', '.join(dropped)}, and this text does not: what clients send there "
                    "would not reach the model. Use it, or say --drop-variables if that is meant."
                )
            origin = Origin(kind="registered", by=current_user(), at=_now(), note=note)
            added = registry.add_version(template_id, text, model=model, origin=origin)
            _print_edited(template_id, version=added.number, base=base.number, as_json=as_json)
    except RouteSwitchError:
        if file is None:
            words.print(f"Your text is kept: route-switch template edit {template_id} --file {draft}")
        raise
    if file is None:
        draft.unlink()


def _read(file: Path) -> str:
    if file == _STANDARD_INPUT:
        return sys.stdin.read()
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{file} cannot be read: {error}.") from None


def _print_edited(template_id: str, *, version: int | None, base: int, as_json: bool) -> None:
    if as_json:
        print_json({"template_id": template_id, "version": version, "based_on": base})
    elif version is None:
        words.print(f"Nothing was changed of version {base}: no version was added.")
    else:
        words.print(
            f"Added version {version}, a draft. Look at it with `route-switch template diff {template_id} {base} "
            f"{version}`, make it live with `route-switch template publish {template_id} {version} --reason WHY`."
        )


def _by_hand(reason: str, model: str | None) -> "ByHand":
    from rs_gateway.domain.prompts import ANY_MODEL
    from rs_gateway.live_changes import ByHand

    if not reason.strip():
        raise typer.BadParameter("say why: it is all that others will have to go by.", param_hint="--reason")
    return ByHand(current_user(), _now(), reason.strip(), None if model == ANY_MODEL else model)


def _models(settings: "Settings", template_id: str) -> set[str]:
    from rs_gateway.wiring import combinations_of

    return {c.model for c in combinations_of(settings) if c.template_id == template_id and c.enabled}


def _say(changed: "RegisteredTemplate", *, as_json: bool) -> None:
    from rs_gateway.domain.registered_template import listed_versions

    change = changed.history[-1]
    pinned = {} if change.model is not None else changed.own_versions
    if as_json:
        facts = {"template_id": changed.template.template_id, **asdict(change)}
        print_json(
            {**facts, "proven": change.comparison_id is not None, "serving": changed.serving, "still_pinned": pinned}
        )
        return
    whom = change.model or ("all models" if not pinned else "all models without a version of their own")
    before = "where none was" if change.previous is None else f"in place of {change.previous}"
    words.print(
        f"Version {change.version} of {changed.template.template_id!r} is live for {whom}, {before}, by {change.by}. "
        "A running gateway serves it at its next refresh."
    )
    if pinned:
        words.print(f"Versions of their own keep: {listed_versions(pinned)}. Name one with --model to change it.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
