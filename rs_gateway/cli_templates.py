"""`route-switch template`: register prompt templates, look at them, and change what is live."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rs_gateway.cli_options import ConfigOption, JsonOption, TemplateArgument
from rs_gateway.cli_template_changes import edit_template, publish_version, roll_back_template
from rs_gateway.completions import version_numbers
from rs_gateway.current_user import current_user
from rs_gateway.data_console import data, print_json, printable, words

if TYPE_CHECKING:
    from rs_gateway.domain.prompts import PromptVersion
    from rs_gateway.domain.registered_template import RegisteredTemplate

template_app = typer.Typer(no_args_is_help=True, help="Register prompt templates, look at them, change what is live.")
template_app.command("publish")(publish_version)
template_app.command("rollback")(roll_back_template)
template_app.command("edit")(edit_template)


@template_app.command("register")
def register_template(
    file: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="YAML: id, instruction, user, evaluator ...")
    ] = None,
    template_id: Annotated[
        str | None, typer.Option("--template-id", help="Without a YAML file: the template's id.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Without a YAML file: the instruction, as text.")
    ] = None,
    variables: Annotated[
        str | None, typer.Option(help="With --prompt-file: its variables, as a,b.  [default: those that the text uses]")
    ] = None,
    name: Annotated[str, typer.Option(help="With --prompt-file: the template's name, for people.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a prompt template; its first version is live at once, with you on record as the one who did it.

    From a YAML file, or from a text file with the instruction alone.

    Example: `route-switch template register support.yaml`
    """
    from rs_gateway.domain.prompts import Origin
    from rs_gateway.settings import load_settings
    from rs_gateway.template_file import check_template, read_prompt, read_template
    from rs_gateway.wiring import open_registry

    if file is not None and template_id is None and prompt_file is None:
        template, text = read_template(file)
    elif file is None and template_id is not None and prompt_file is not None:
        named = None if variables is None else [v.strip() for v in variables.split(",") if v.strip()]
        template, text = read_prompt(prompt_file, template_id=template_id, name=name, variables=named)
    else:
        raise typer.BadParameter("Give a YAML file, or both --template-id and --prompt-file.")
    settings = load_settings(config)
    check_template(template, settings)
    origin = Origin(kind="registered", by=current_user(), at=datetime.now(UTC).isoformat(timespec="seconds"))
    registered = open_registry(settings).register(template, text, origin=origin)
    if as_json:
        print_json({"template_id": registered.template.template_id, "version": 1})
    else:
        words.print(
            f"Registered {template.template_id!r}, version 1 live. A running gateway serves it at its next refresh."
        )


@template_app.command("list")
def list_templates(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List registered templates and what is live.

    Example: `route-switch template list`
    """
    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import open_registry

    state = open_registry(load_settings(config)).load()
    rows: list[dict[str, Any]] = [
        {
            "template_id": t,
            "name": r.template.name,
            "versions": len(r.versions),
            "serving": dict(r.serving),
            "problem": state.problems.get(t),
        }
        for t, r in sorted(state.templates.items())
    ]
    rows += [
        {"template_id": t, "name": "", "versions": 0, "serving": {}, "problem": p}
        for t, p in sorted(state.problems.items())
        if t not in state.templates
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("template", "name", "versions", "live", "problem")
    for row in rows:
        live = ", ".join(f"{m}: v{v}" for m, v in row["serving"].items())
        table.add_row(row["template_id"], row["name"], str(row["versions"]), live, row["problem"] or "")
    data.print(table)


@template_app.command("show")
def show_template(template_id: TemplateArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show a template: what is live and why in a few lines, then all versions and the whole history as YAML.

    Example: `route-switch template show support`
    """
    from dataclasses import asdict

    from rs_gateway.settings import load_settings
    from rs_gateway.template_summary import summary_of
    from rs_gateway.wiring import open_registry

    registered = open_registry(load_settings(config)).get(template_id)
    shown = {
        "template": asdict(registered.template),
        "serving": dict(registered.serving),
        "versions": [
            {**asdict(v), "content_hash": v.text.content_hash} for _, v in sorted(registered.versions.items())
        ],
        "history": [asdict(change) for change in registered.history],
    }
    if as_json:
        print_json(shown)
    else:
        # As comments, so that the whole stays YAML.
        sys.stdout.writelines(f"# {printable(line)}\n" for line in summary_of(registered))
        import yaml

        sys.stdout.write(
            yaml.safe_dump(json.loads(json.dumps(shown, default=str)), sort_keys=False, allow_unicode=True)
        )


@template_app.command("history")
def show_history(template_id: TemplateArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Who made which version live, when, why, and on which proof; changes of weights too. The newest last.

    Example: `route-switch template history support`
    """
    from dataclasses import asdict

    from rs_gateway.settings import load_settings
    from rs_gateway.wiring import open_registry

    registered = open_registry(load_settings(config)).get(template_id)
    if as_json:
        print_json([asdict(change) for change in registered.history])
        return
    table = Table()
    for heading in ("at", "by", "what", "for", "proof", "reason"):
        table.add_column(heading, overflow="fold")  # nothing is cut, however narrow the terminal is
    for change in registered.history:
        what = f"{change.action.value} version {change.version}"
        whom = change.model or "all models"
        if change.version is None:
            weight = "as configured" if change.weight is None else f"{change.weight:g}"
            what, whom = f"weight {weight}", change.combination_id or ""
        elif change.previous is not None:
            what += f" (was {change.previous})"
        proof = change.comparison_id or ("by hand" if change.action == "publish" else "")
        table.add_row(*(printable(cell) for cell in (_at(change.at), change.by, what, whom, proof, change.reason)))
    data.print(table)


@template_app.command("diff")
def show_difference(
    template_id: TemplateArgument,
    older: Annotated[
        int | None, typer.Argument(min=1, help="A version.  [default: the live one]", autocompletion=version_numbers)
    ] = None,
    newer: Annotated[
        int | None, typer.Argument(min=1, help="Another one.  [default: the newest]", autocompletion=version_numbers)
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model whose live version is meant.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """How two versions differ, line by line. Without numbers: what the newest one would change of what is live.

    Example: `route-switch template diff support 1 3`
    """
    from rs_gateway.settings import load_settings
    from rs_gateway.version_texts import difference, live_version, version_of
    from rs_gateway.wiring import open_registry

    registered = open_registry(load_settings(config)).get(template_id)
    first = live_version(registered, _one_model(registered, model)) if older is None else version_of(registered, older)
    second = version_of(registered, max(registered.versions) if newer is None else newer)
    lines = difference(first, second)
    if as_json:
        print_json({"template_id": template_id, "from": _brief(first), "to": _brief(second), "diff": lines})
        return
    for line in lines:
        data.print(printable(line), style=_STYLES.get(line[:1]))
    if not lines:
        words.print(f"Versions {first.number} and {second.number} say the same.")


def _at(at: str) -> str:
    """As it is stored, with a space to fold at."""
    return at.replace("T", " ", 1).replace("+00:00", " UTC")


_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def _one_model(registered: "RegisteredTemplate", model: str | None) -> str:
    from rs_gateway.domain.prompts import ANY_MODEL

    own = registered.own_versions
    return model or (next(iter(own)) if len(own) == 1 and ANY_MODEL not in registered.serving else ANY_MODEL)


def _brief(version: "PromptVersion") -> dict[str, Any]:
    return {"version": version.number, "model": version.model, "content_hash": version.text.content_hash}
