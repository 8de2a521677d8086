"""The versions of a template as a git history, one commit each, in one file that `git clone` reads."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from rs_gateway.adapters.prompt_yaml import dump_template, dump_version
from rs_gateway.domain.errors import ConfigurationError, RouteSwitchError
from rs_gateway.domain.prompts import PromptVersion
from rs_gateway.domain.registered_template import RegisteredTemplate

_TIMEOUT_S = 120.0


class GitError(RouteSwitchError):
    """git did not do what it was asked for."""

    code = "git_failed"


def need_git() -> str:
    """Where git is. Raises ConfigurationError: nowhere on PATH."""
    found = shutil.which("git")
    if found is None:
        raise ConfigurationError("--git needs the program `git`, which is not on PATH: install it, or leave --git out.")
    return found


def write_bundle(registered: RegisteredTemplate, bundle: Path) -> None:
    """Write `bundle`: branch `main`, a commit and a tag (`v3`) a version, whose author and time are the version's.

    Each commit holds template.yaml and prompt.yaml, so `git log -p` shows what a version changed. The user's git
    settings and hooks play no part.

    Raises:
        ConfigurationError: there is no git. GitError: it failed.
    """
    git = need_git()
    with tempfile.TemporaryDirectory(prefix="route-switch-git-") as name:
        folder = Path(name)
        _run(git, folder, "init", "--quiet", "--initial-branch=main", "--template=")
        (folder / "template.yaml").write_bytes(dump_template(registered.template))
        for number, version in sorted(registered.versions.items()):
            (folder / "prompt.yaml").write_bytes(dump_version(version))
            _run(git, folder, "add", "--all")
            _run(
                git, folder, "commit", "--quiet", "--allow-empty", "--message", _message(version), env=_author(version)
            )
            _run(git, folder, "tag", f"v{number}")
        _run(git, folder, "bundle", "create", "--quiet", str(bundle.absolute()), "--all", "HEAD")


def _message(version: PromptVersion) -> str:
    origin, whom = version.origin, version.model or "every model"
    lines = [f"Version {version.number}, for {whom}", "", f"{origin.kind} by {origin.by} at {origin.at}"]
    if origin.note is not None:
        lines.append(origin.note)
    lines += [f"Study: {origin.study_id}"] * (origin.study_id is not None)
    lines += [f"Comparison: {origin.comparison_id}"] * (origin.comparison_id is not None)
    return "\n".join(lines).replace("\0", "")


def _author(version: PromptVersion) -> dict[str, str]:
    name = " ".join("".join(c for c in version.origin.by if c.isprintable() and c not in "<>").split()) or "unknown"
    at = f"@{int(_instant(version).timestamp())} +0000"  # without @ git takes small numbers for days and years
    return {
        **{"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": "route-switch@localhost", "GIT_AUTHOR_DATE": at},
        **{"GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": "route-switch@localhost", "GIT_COMMITTER_DATE": at},
    }


def _instant(version: PromptVersion) -> datetime:
    """When it was made; where that is no date that git can hold, its year zero."""
    start = datetime(1970, 1, 2, tzinfo=UTC)
    try:
        at = datetime.fromisoformat(version.origin.at)
    except ValueError:
        return start
    return max(start, at if at.tzinfo is not None else at.replace(tzinfo=UTC))


def _run(git: str, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [git, "-c", "commit.gpgsign=false", "-c", "core.autocrlf=false", "-c", "gc.auto=0", *arguments],
            cwd=folder,
            env={**kept, **alone, **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(f"git {arguments[0]} failed: {error}. Leave --git out to export without a history.") from error
    if done.returncode != 0:
        raise GitError(
            f"git {arguments[0]} failed ({done.stderr.strip()[:300]}): git 2.28 or newer is needed. Leave --git out to "
            "export without a history."
        )
