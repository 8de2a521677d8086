"""Who is measured, and how each is set up: ours with everything on, the peers with as little work as they allow."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.installs import ROOT, install_litellm, install_portkey
from benchmarks.load import Kind, write_bodies
from benchmarks.processes import BenchmarkError, own_environment

_UPSTREAM_KEY = "sk-bench-upstream"
_COMBINATIONS = {"first": 5, "second": 3, "third": 2}
CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Contender:
    """A server to be measured.

    Attributes:
        command: port -> the command line that serves on it.
        headers: what its clients send beside the body.
        keyed: whether it checks a client key, and must refuse who has none.
        traces: where it stores one row a request; None when it stores nothing.
    """

    name: str
    command: Callable[[int], list[str | Path]]
    health_path: str
    bodies: Mapping[Kind, Path]
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    keyed: bool = False
    traces: Path | None = None


def bare(directory: Path, upstream_port: int) -> Contender:
    """uvicorn and aiohttp with nothing between them."""
    upstream = f"http://127.0.0.1:{upstream_port}"
    return Contender(
        name="bare",
        command=lambda port: [sys.executable, "-m", "benchmarks.bare_passthrough", str(port), upstream],
        health_path="/",
        bodies=write_bodies(directory, "bare", {"model": "bench-model"}),
        headers={"authorization": f"Bearer {_UPSTREAM_KEY}"},
    )


def litellm(directory: Path, upstream_port: int) -> Contender:
    """LiteLLM's proxy as its production guide has it, without a database: master key, no debugging, errors only."""
    config = directory / "litellm.yaml"
    deployment = {
        "model": "openai/bench-model",
        "api_base": f"http://127.0.0.1:{upstream_port}/v1",
        "api_key": _UPSTREAM_KEY,
    }
    settings = {
        "model_list": [{"model_name": "bench-model", "litellm_params": deployment}],
        "general_settings": {"master_key": "sk-bench-client", "disable_error_logs": True},
        "litellm_settings": {"set_verbose": False, "json_logs": True, "request_timeout": 600, "telemetry": False},
        "router_settings": {"routing_strategy": "simple-shuffle", "num_retries": 0},
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    program = install_litellm()
    return Contender(
        name="litellm",
        command=lambda port: [
            *(program, "--config", config, "--host", "127.0.0.1", "--port", str(port)),
            *("--num_workers", "1", "--telemetry", "False"),
        ],
        health_path="/health/liveliness",
        bodies=write_bodies(directory, "litellm", {"model": "bench-model"}),
        headers={"authorization": "Bearer sk-bench-client"},
        keyed=True,
        environment={
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
            "DISABLE_ADMIN_UI": "True",
            "NO_DOCS": "True",
        },
    )


def portkey(directory: Path, upstream_port: int) -> Contender:
    """Portkey's open gateway without its console. It knows no client keys; the upstream comes with each request."""
    script = install_portkey()
    return Contender(
        name="portkey",
        command=lambda port: ["node", script, f"--port={port}", "--headless"],
        health_path="/",
        bodies=write_bodies(directory, "portkey", {"model": "bench-model"}),
        headers={
            "authorization": f"Bearer {_UPSTREAM_KEY}",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
        },
        environment={"NODE_ENV": "production"},
    )


def ours(directory: Path, upstream_port: int, *, workers: int) -> Contender:
    """`route-switch serve` with a client key, a rendered template, `weighted` over three combinations, and traces."""
    name = "ours" if workers == 1 else f"ours-{workers}-workers"
    home = directory / name
    home.mkdir()
    config = home / "route-switch.yaml"
    template = home / "template.yaml"
    template.write_text(
        "id: support\n"
        "instruction: >-\n"
        "  You answer customers of {company}. Be brief, be kind, and ask for the order number when it is missing.\n"
        "  Never promise a refund above {limit}.\n"
        'user: "The customer {customer_name} writes:"\n'
        "variables: [company, limit, customer_name]\n"
    )
    _configure(config, port=0, upstream_port=upstream_port)
    _route_switch(config, "template", "register", str(template))
    key = _client_key(config)

    def command(port: int) -> list[str | Path]:
        _configure(config, port=port, upstream_port=upstream_port)
        return [sys.executable, "-m", "rs_gateway", "serve", "--config", config, "--workers", str(workers)]

    variables = {"company": "Example Goods", "limit": "50 USD", "customer_name": "Jordan"}
    return Contender(
        name=name,
        command=command,
        health_path="/health",
        bodies=write_bodies(directory, name, {"model": "support", "variables": variables}),
        headers={} if key is None else {"authorization": f"Bearer {key}"},
        keyed=key is not None,
        environment={"OPENAI_API_KEY": _UPSTREAM_KEY},
        traces=home / "data" / "traces.db",
    )


def _configure(config: Path, *, port: int, upstream_port: int) -> None:
    provider = {"base_url": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "${OPENAI_API_KEY}"}
    combinations = [
        {"id": name, "template_id": "support", "provider": "upstream", "model": f"bench-{name}", "weight": weight}
        for name, weight in _COMBINATIONS.items()
    ]
    gateway = {"addr": f"127.0.0.1:{port}", "strategy": "weighted", "combinations": combinations}
    config.write_text(json.dumps({"model_providers": {"upstream": provider}, "gateway": gateway}))


def _client_key(config: Path) -> str | None:
    """A fresh client key; None when this version has no keys."""
    known = _run_route_switch(config, "keys", "create", "--help")
    if known.returncode != 0:
        return None
    return str(json.loads(_route_switch(config, "keys", "create", "benchmark", "--json"))["key"])


def _route_switch(config: Path, *arguments: str) -> str:
    finished = _run_route_switch(config, *arguments)
    if finished.returncode != 0:
        raise BenchmarkError(f"route-switch {' '.join(arguments)} failed:\n{finished.stdout}{finished.stderr}")
    return finished.stdout


def _run_route_switch(config: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**own_environment(), "RS_CONFIG": str(config), "OPENAI_API_KEY": _UPSTREAM_KEY}
    command = [sys.executable, "-m", "rs_gateway", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
