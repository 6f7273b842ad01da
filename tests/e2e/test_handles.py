"""Other Ray jobs, the client, and how chunks share replicas."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile

from deployments.options import TranscribeOptions
from serve.client import ServerError, connect
from tests.conftest import DATA, read_pcm
from tests.e2e.conftest import CLIP, KEY, LONG_S, write_speech
from tests.support.cluster import Cluster

JOB = """
import json, sys
import numpy as np, ray
from deployments.audio.reading import AudioLimits
from deployments.errors import NotAudioError, OptionError, UnknownModelError
from deployments.options import TranscribeOptions
from serve.client import connect
from tests.conftest import read_pcm
from pathlib import Path
from ray import serve

ray.init(log_to_driver=False)
clip, long = map(Path, sys.argv[1:])
options = TranscribeOptions(model="tiny.en")
pcm = read_pcm(clip)
handle = serve.get_app_handle("murmur")
texts = {
    "bytes": handle.transcribe.remote(clip.read_bytes(), options).result().text,
    "path": handle.transcribe.remote(str(clip), options).result().text,
    "int16": handle.transcribe.remote(pcm, options, 16_000).result().text,
    "float32": handle.transcribe.remote(pcm / np.float32(32768), options, 16_000).result().text,
    "stereo": handle.transcribe.remote(np.stack([pcm, pcm], 1), options, 16_000).result().text,
    "ref": handle.transcribe.remote(ray.put(clip.read_bytes()), options).result().text,
    "array ref": handle.transcribe.remote(ray.put(pcm), options, 16_000).result().text,
}
with connect("murmur") as client:
    texts["client"] = client.transcribe(clip, options).text
    whole = client.transcribe(long, options)
    streamed = list(client.stream(long, options))
errors = {}
for name, audio, wrong in (
    ("not audio", b"abc", options),
    ("model", pcm, TranscribeOptions(model="large")),
    ("language", pcm, TranscribeOptions(model="tiny.en", language="fr")),
    ("dtype", pcm.astype(np.int64), options),
    ("missing", "/nowhere/talk.wav", options),
):
    try:
        handle.transcribe.remote(audio, wrong).result()
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        errors[name] = kinds
print(json.dumps({
    "texts": texts,
    "whole": whole.text,
    "same": [s.text for s in streamed] == [s.text for s in whole.segments],
    "segments": len(streamed),
    "errors": errors,
}))
"""


def test_a_job_of_the_cluster_gets_what_http_gives(
    cluster: Cluster, client: openai.OpenAI, long_file: Path
) -> None:
    printed = cluster.job("-c", JOB, str(CLIP), str(long_file))
    got = json.loads(printed.splitlines()[-1])
    clip = client.audio.transcriptions.create(model="tiny.en", file=CLIP).text
    assert got["texts"] == dict.fromkeys(got["texts"], clip)
    whole = client.audio.transcriptions.create(model="tiny.en", file=long_file).text
    assert got["whole"] == whole
    assert got["same"] and got["segments"] > 5
    assert "NotAudioError" in got["errors"]["not audio"]
    assert "UnknownModelError" in got["errors"]["model"]
    assert "OptionError" in got["errors"]["language"]
    assert "NotAudioError" in got["errors"]["dtype"]
    assert "AudioNotFoundError" in got["errors"]["missing"]


@pytest.mark.more
def test_the_example_job_runs(cluster: Cluster) -> None:
    clips = sorted(str(clip) for clip in DATA.glob("*.wav"))[:2]
    printed = cluster.job("examples/ray_job.py", *clips)
    assert len(printed.splitlines()) == len(clips)
    assert "leisure to consider" in printed


def test_the_http_client(cluster: Cluster, long_file: Path) -> None:
    options = TranscribeOptions(model="tiny.en", keywords=("Dashwood",))
    with connect(cluster.url, KEY) as client:
        whole = client.transcribe(long_file, options)
        streamed = list(client.stream(long_file, options))
        assert [s.text for s in streamed] == [s.text for s in whole.segments]
        assert [s.start_s for s in streamed] == [s.start_s for s in whole.segments]
        assert whole.duration_s == LONG_S and whole.language == "en"
        timed = replace(options, words=True)
        said = [w for s in client.transcribe(long_file, timed).segments for w in s.words]
        told = [w for s in client.stream(long_file, timed) for w in s.words]
        assert "".join(word.text for word in said).strip() == whole.text
        assert [(w.text, w.start_s) for w in told] == [(w.text, w.start_s) for w in said]
        pcm = read_pcm(CLIP)
        texts = {
            client.transcribe(audio, options, 16_000).text
            for audio in (CLIP, CLIP.read_bytes(), pcm, pcm / np.float32(32_768))
        }
        assert len(texts) == 1 and "leisure to consider" in texts.pop()
        chosen = client.transcribe(CLIP, TranscribeOptions(model="whisper-1"))
        assert {segment.model for segment in chosen.segments} == {"base"}, "what it stands for"
        translated = TranscribeOptions(model="base", task="translate")
        assert "leisure" in client.transcribe(CLIP, translated).text
        with pytest.raises(ServerError) as caught:
            client.transcribe(b"abc", options)
        assert (caught.value.status, caught.value.param) == (400, "file")
        with pytest.raises(ServerError) as caught:
            list(client.stream(b"abc", options))
        assert (caught.value.status, caught.value.code) == (400, "invalid_audio")


def test_the_client_says_who_it_is(cluster: Cluster) -> None:
    with connect(cluster.url) as stranger, pytest.raises(ServerError) as caught:
        stranger.transcribe(CLIP)
    assert caught.value.status == 401


def test_a_long_file_uses_all_replicas_at_once(
    cluster: Cluster, client: openai.OpenAI, tmp_path: Path
) -> None:
    path = write_speech(tmp_path / "long.wav", 300)
    replicas = cluster.processes("tiny_en")
    assert len(replicas) == 2
    before = [sum(replica.cpu_times()[:2]) for replica in replicas]
    assert client.audio.transcriptions.create(model="tiny.en", file=path).text
    used = [
        sum(replica.cpu_times()[:2]) - start
        for replica, start in zip(replicas, before, strict=True)
    ]
    assert min(used) > 0.5 * max(used), "chunks go to both"


def test_a_clip_does_not_wait_for_the_files_before_it(
    cluster: Cluster, client: openai.OpenAI, tmp_path: Path
) -> None:
    """Not how long it takes, which a busy machine decides, but what is finished first."""
    path = write_speech(tmp_path / "long.wav", 180)
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, read_pcm(CLIP)[:48_000], 16_000)
    create = client.audio.transcriptions.create
    finished: list[str] = []
    with ThreadPoolExecutor(8) as threads:
        long = [
            threads.submit(lambda: (create(model="base", file=path), finished.append("long")))
            for _ in range(3)
        ]
        time.sleep(2)
        assert not finished, "the files are longer than that"
        create(model="base", file=clip)
        finished.append("clip")
        for future in long:
            future.result()
    assert finished[0] == "clip"
