"""Ray jobs that cannot import the package, and jobs that are killed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from tests.e2e.conftest import CLIP, KEY, write_speech
from tests.support.cluster import Cluster

STRANGER = """
import json, sys
import ray
from ray import serve

def builtin(value):
    if isinstance(value, dict):
        return all(builtin(part) for pair in value.items() for part in pair)
    if type(value) in (list, tuple):
        return all(map(builtin, value))
    return type(value).__module__ == "builtins"

ray.init(log_to_driver=False)
audio = open(sys.argv[1], "rb").read()
handle = serve.get_app_handle("murmur")
options = {"model": "tiny.en", "priority": "realtime", "vad": {"threshold": 0.4}}
whole = handle.transcribe.remote(audio, options).result()
streamed = list(handle.options(stream=True).stream.remote(audio, options))
errors = {}
for name, audio, options in (
    ("audio", b"abc", {"model": "tiny.en"}),
    ("model", audio, {"model": "large"}),
    ("option", audio, {"modle": "tiny.en"}),
    ("value", audio, {"vad": {"threshold": 2}}),
    ("options", audio, "tiny.en"),
    ("path", "/nowhere/talk.wav", {}),
):
    for call in ("transcribe", "stream"):
        try:
            if call == "stream":
                list(handle.options(stream=True).stream.remote(audio, options))
            else:
                handle.transcribe.remote(audio, options).result()
        except ValueError as error:
            cause = error.cause
            errors[f"{name} {call}"] = [type(cause).__name__, cause.code, str(cause)]
try:
    import deployments
    can_import = True
except ImportError:
    can_import = False
print(json.dumps({
    "can_import": can_import,
    "builtin": builtin(whole) and builtin(streamed),
    "text": whole["text"],
    "streamed": [part["text"] for part in streamed], "errors": errors,
    "segments": [part["text"] for part in whole["segments"]],
}))
"""

WAITER = """
import sys
import ray
from ray import serve
ray.init(log_to_driver=False)
handle = serve.get_app_handle("murmur")
audio = open(sys.argv[2], "rb").read()
if sys.argv[1] == "stream":
    from deployments.options import TranscribeOptions
    segments = handle.options(stream=True).stream.remote(audio, TranscribeOptions("tiny.en"))
    print("asked", flush=True)
    list(segments)
else:
    options = {"model": "tiny.en", "caller": ray.get_runtime_context().get_worker_id()}
    response = handle.transcribe.remote(audio, options)
    print("asked", flush=True)
    response.result()
"""


@pytest.fixture(scope="module")
def half_an_hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("long") / "long.wav", 1800)


def test_a_job_without_the_package_is_answered_in_pythons_own_types(
    cluster: Cluster, client: openai.OpenAI, tmp_path: Path
) -> None:
    # Without `site` no path files are read, so neither is that of a package installed in place.
    packages = next(path for path in sys.path if Path(path, "ray", "serve").is_dir())
    done = subprocess.run(
        [sys.executable, "-S", "-c", STRANGER, str(CLIP)],
        env={**cluster.joined(), "PYTHONPATH": packages},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert not got["can_import"]
    assert got["builtin"]
    assert got["text"] == client.audio.transcriptions.create(model="tiny.en", file=CLIP).text
    assert got["streamed"] == got["segments"]
    errors: dict[str, Any] = got["errors"]
    assert len(errors) == 12
    for call in ("transcribe", "stream"):
        assert errors[f"audio {call}"][:2] == ["ValueError", "not_audio"]
        assert errors[f"model {call}"] == [
            "ValueError",
            "unknown_model",
            "the model 'large' does not exist",
        ]
        assert errors[f"option {call}"][1:] == ["option", "unknown option 'modle'"]
        assert "threshold must be between 0 and 1" in errors[f"value {call}"][2]
        assert "a mapping, not str" in errors[f"options {call}"][2]
        assert errors[f"path {call}"][1] == "audio_not_found"


@pytest.mark.parametrize("how", ["stream", "transcribe"])
def test_the_work_of_a_job_that_is_killed_stops(
    cluster: Cluster, half_an_hour: Path, how: str
) -> None:
    """If it were not noticed it would end well."""
    before = {record["id"] for record in cluster.records()}
    job = subprocess.Popen(
        [sys.executable, "-c", WAITER, how, str(half_an_hour)],
        env=cluster.joined(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    with job:
        assert job.stdout.readline()
        # Not later, as at a first segment: a fast machine may have done the most of it by then.
        until(lambda: queued_s(cluster) > 0)
        job.send_signal(signal.SIGKILL)
    until(lambda: any(record["id"] not in before for record in cluster.records()))
    (record,) = (record for record in cluster.records() if record["id"] not in before)
    assert record["outcome"] == "cancelled" and record["tier"] == "tiny.en"
    until(lambda: queued_s(cluster) == 0)
    found = httpx2.post(
        f"{cluster.url}/v1/audio/transcriptions",
        headers={"authorization": f"Bearer {KEY}"},
        data={"model": "tiny.en"},
        files={"file": ("a.wav", CLIP.read_bytes())},
        timeout=60,
    )
    assert found.status_code == 200


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def queued_s(cluster: Cluster) -> float:
    """Audio of all tiers that is not done, by the board."""
    headers = {"authorization": f"Bearer {KEY}"}
    tiers = httpx2.get(f"{cluster.url}/v1/cluster", headers=headers).json()["tiers"]
    return float(np.sum([tier["queued_audio_s"] for tier in tiers]))
