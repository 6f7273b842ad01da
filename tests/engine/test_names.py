"""What models are called, and what is taken for a name."""

import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled

from engine.errors import ModelNotFoundError
from engine.model_sizes import known_sizes
from engine.weights import hub
from engine.weights.hub import DEMO_MODELS, resolve_model
from engine.weights.names import NAMES, PUBLISHED, published_name


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What is asked of the hub, which has everything."""
    asked: list[str] = []

    def snapshot_download(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append(hub_id)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("large-v3", "openai/whisper-large-v3"),
        ("whisper-large-v3", "openai/whisper-large-v3"),
        ("openai/whisper-large-v3", "openai/whisper-large-v3"),
        ("Large-V3", "openai/whisper-large-v3"),
        ("large", "openai/whisper-large-v3"),
        ("large-v1", "openai/whisper-large"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("large-v3-turbo", "openai/whisper-large-v3-turbo"),
        ("whisper-large-v3-turbo", "openai/whisper-large-v3-turbo"),
        ("distil-large-v3.5", "distil-whisper/distil-large-v3.5"),
        ("distil-whisper/distil-large-v3.5", "distil-whisper/distil-large-v3.5"),
        ("base.en", "openai/whisper-base.en"),
        ("somebody/whisper-of-her-own", "somebody/whisper-of-her-own"),
        ("openai/whisper-base", "openai/whisper-base"),
    ],
)
def test_as_everybody_writes_it(name: str, hub_id: str, downloads: list[str]) -> None:
    resolve_model(name)
    assert downloads == [hub_id]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bars_of_a_download_are_for_terminals(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[bool] = []

    def snapshot_download(hub_id: str, allow_patterns: list[str]) -> str:
        drawn.append(not are_progress_bars_disabled())
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    resolve_model("turbo")
    assert drawn == [is_terminal] and not are_progress_bars_disabled()


@pytest.mark.parametrize("name", ["tiny.en", "whisper-tiny.en", "demo:tiny.en"])
def test_a_package_with_the_weights_needs_no_hub(name: str, downloads: list[str]) -> None:
    assert (resolve_model(name) / "model.bin").is_file() and downloads == []


def test_without_the_package_a_name_is_the_hubs(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda package: None)
    resolve_model("tiny.en")
    assert downloads == ["openai/whisper-tiny.en"]


@pytest.mark.parametrize(("is_installed", "said"), [(True, "needs no hub"), (False, "pip install")])
def test_without_a_hub_the_package_is_named(
    is_installed: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(hub_id: str, allow_patterns: list[str]) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "find_spec", lambda package: is_installed or None)
    with pytest.raises(ModelNotFoundError, match=f"no route to host; 'demo:base' .*{said}"):
        resolve_model("openai/whisper-base")
    with pytest.raises(ModelNotFoundError, match="'turbo' .openai/.* no route to host$"):
        resolve_model("turbo")


class _Hub(BaseHTTPRequestHandler):
    """Answers everything with the status that its path begins with, as the hub words it."""

    def do_GET(self) -> None:
        status = int(self.path.split("/")[1])
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        if status == 403:
            self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def hub_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "offline", "said"),
    [
        ("/404", False, "the hub has none of that name"),
        ("/403", False, "its owner asks for consent first"),
        ("/418", False, "the hub answers with status 418"),
        ("/404", True, "HF_HUB_OFFLINE forbids to ask the hub"),
        (None, False, "and https://huggingface.co does not answer"),
    ],
)
def test_why_the_hub_has_no_files_is_said_in_words(
    path: str | None,
    offline: bool,
    said: str,
    hub_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the hub's own library."""
    endpoint = "http://127.0.0.1:9" if path is None else f"{hub_url}{path}"
    download = partial(hub.snapshot_download, cache_dir=tmp_path, endpoint=endpoint)
    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "https://huggingface.co")
    with pytest.raises(ModelNotFoundError) as error:
        resolve_model("turbo")
    words = str(error.value)
    assert words.startswith("model 'turbo' (openai/whisper-large-v3-turbo)") and said in words
    assert "Error" not in words and "Errno" not in words


def test_a_published_name_is_no_folder(
    downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "turbo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("./turbo") == Path("turbo") and downloads == []
    resolve_model("turbo")
    assert downloads == [PUBLISHED["turbo"]]


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("lage-v3", "large-v3"),
        ("trubo", "turbo"),
        ("tiny-en", "tiny.en"),
        ("whisper-large", "large"),  # the hub's is the first version, openai/whisper's the third
        ("whisper-smal", "small"),
    ],
)
def test_an_unknown_name_lists_what_is_known(name: str, closest: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(name)
    listed = str(caught.value).partition("closest first: ")[2].partition(";")[0].split(", ")
    assert listed[0] == closest and sorted(listed) == sorted([*NAMES, *DEMO_MODELS])


def test_what_can_be_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.bin").touch()
    monkeypatch.chdir(tmp_path)
    for name, said in (("model.bin", "it is a file"), ("a/b/c", "no such folder"), ("", "closest")):
        with pytest.raises(ModelNotFoundError, match=said):
            resolve_model(name)


def test_sizes_are_known_of_every_name() -> None:
    assert all(known_sizes(name) for name in (*NAMES, *PUBLISHED.values(), *DEMO_MODELS))
    assert {published_name(name) for name in NAMES} == set(PUBLISHED)
    for other in ("./base", "somebody/whisper-base", "demo:nothing", "whisper-large", ""):
        assert published_name(other) is None and known_sizes(other) is None
