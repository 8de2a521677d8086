"""What `deploy/` says holds: files parse, names refer to something, and commands have the options they are given."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from rs_gateway.settings import load_settings

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
BIN = Path(sys.executable).parent
HELP = {
    "route-switch": ["route-switch", "serve", "--help"],
    "dagster": ["dagster", "code-server", "start", "--help"],
    "dagster-webserver": ["dagster-webserver", "--help"],
    "dagster-daemon": ["dagster-daemon", "run", "--help"],
    "celery": ["celery", "worker", "--help"],
}
"""Program -> what lists the options of the command that is started with it."""
OF_OTHER_IMAGES = {"POSTGRES_USER", "POSTGRES_DB", "PGDATA"}
ELSEWHERE = {"--app"}
"""Options of `celery` itself, before its command."""


def manifests() -> list[dict[str, Any]]:
    paths = [DEPLOY / name for name in KUSTOMIZATION["resources"]]
    paths.append(DEPLOY / "kubernetes/secret.example.yaml")
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod template and whole manifest of everything that runs."""
    for manifest in manifests():
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"], manifest


def commands() -> dict[str, list[str]]:
    """Where -> command line of everything of ours that is started."""
    found = {
        f"compose {name}": service["command"] for name, service in COMPOSE["services"].items() if "command" in service
    }
    for name, template, _ in pods():
        for container in template["spec"]["containers"]:
            if "command" in container:
                found[f"kubernetes {name}"] = container["command"]
    return found


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: f"{m['kind']} {m['metadata']['name']}")
def test_every_manifest_is_valid_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_compose_and_kubernetes_start_the_same_commands() -> None:
    found = commands()
    parts = ("code-location", "webserver", "daemon", "worker")
    assert [found[f"compose {part}"] for part in parts] == [found[f"kubernetes {part}"] for part in parts]
    assert {where for where in found if where.endswith("gateway")} == {"compose gateway", "kubernetes gateway"}


@pytest.mark.parametrize("program", HELP)
def test_every_command_exists_and_knows_the_options_that_it_is_given(program: str) -> None:
    used = [command for command in commands().values() if command[0] == program]
    assert used
    assert shutil.which(program, path=str(BIN)) is not None
    listed = subprocess.run(
        [BIN / program, *HELP[program][1:]], capture_output=True, text=True, check=True, timeout=400
    )
    known = set(re.findall(r"--[a-z][a-z-]*", listed.stdout))
    for command in used:
        assert {word for word in command if word.startswith("--")} - ELSEWHERE <= known, command


def test_the_configuration_is_understood_with_the_variables_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = next(m for m in manifests() if m["kind"] == "Secret")
    for name, value in secret["stringData"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings(DEPLOY / "route-switch.yaml")
    assert settings.pipelines.executor == "celery"
    assert settings.gateway.host_and_port == ("0.0.0.0", 8080)
    example = dict(line.split("=", 1) for line in (DEPLOY / ".env.example").read_text().splitlines() if "=" in line)
    assert set(example) | {"DAGSTER_POSTGRES_URL"} == set(secret["stringData"])


def test_every_variable_that_is_set_is_read_by_somebody() -> None:
    read = "".join((DEPLOY / name).read_text() for name in ("route-switch.yaml", "dagster.yaml", "compose.yaml"))
    known = {*re.findall(r"\$\{(\w+)", read), *re.findall(r"env: (\w+)", read), "RS_CONFIG", "DAGSTER_HOME"}
    for _, template, _ in pods():
        for container in template["spec"]["containers"]:
            assert {entry["name"] for entry in container.get("env", [])} <= known | OF_OTHER_IMAGES
    for service in COMPOSE["services"].values():
        assert set(service.get("environment", {})) <= known | OF_OTHER_IMAGES
    dagster = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    assert dagster["storage"]["postgres"]["postgres_url"]["env"] in COMPOSE["services"]["daemon"]["environment"]


def test_names_refer_to_something() -> None:
    configured = set(next(g["files"] for g in KUSTOMIZATION["configMapGenerator"] if g["name"] == "configuration"))
    assert all((DEPLOY / name).is_file() for name in configured)
    labels = {name: template["metadata"]["labels"] for name, template, _ in pods()}
    services = {m["metadata"]["name"]: m["spec"] for m in manifests() if m["kind"] == "Service"}
    claims = {m["metadata"]["name"] for m in manifests() if m["kind"] == "PersistentVolumeClaim"}
    for name, template, manifest in pods():
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
        own = {claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        for container in template["spec"]["containers"]:
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in {*volumes, *own}
                assert mount.get("subPath", "databases.sql") in configured
    for name, service in services.items():
        assert any(service["selector"].items() <= found.items() for found in labels.values()), name


def test_hosts_in_the_files_are_services_of_both() -> None:
    [location] = [
        entry["grpc_server"] for entry in yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    ]
    urls = re.findall(r"(?:@|redis://)([a-z-]+):(\d+)", (DEPLOY / "route-switch.yaml").read_text())
    hosts = {(location["host"], location["port"]), *((host, int(port)) for host, port in urls)}
    ports = {
        (m["metadata"]["name"], port["port"])
        for m in manifests()
        if m["kind"] == "Service"
        for port in m["spec"]["ports"]
    }
    assert hosts <= ports
    assert {host for host, _ in hosts} <= set(COMPOSE["services"])
    code = commands()["compose code-location"]
    assert code[code.index("--port") + 1] == str(location["port"])


def test_the_image_has_what_the_parts_need() -> None:
    words = (DEPLOY / "Dockerfile").read_text()
    copied = [shlex.split(line)[1:-1] for line in words.splitlines() if line.startswith("COPY")]
    root = DEPLOY.parent
    for path in (path for paths in copied for path in paths if not path.startswith("--")):
        assert (root / path).exists(), path
    assert "'.[pipelines,postgres,scale]'" in words


def test_the_readme_names_every_file_of_the_folder() -> None:
    words = (DEPLOY / "README.md").read_text()
    for path in DEPLOY.iterdir():
        if path.name not in ("README.md", ".env"):
            assert f"`{path.name}" in words, path.name
