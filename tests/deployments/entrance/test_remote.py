"""A file over replicas, without Ray: an engine in a thread plays the replica."""

import asyncio
import io
import os
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deployments.audio.reading import AudioLimits, Samples, Source
from deployments.entrance.remote import RemoteRun
from deployments.errors import (
    AudioTooLongError,
    ChunkFailedError,
    NotAudioError,
    OverloadedError,
)
from deployments.local import FileDone, Job, LocalTranscriber
from deployments.messages import Chunk, Transcript, TranscriptSegment, to_chunk_result, to_request
from deployments.replicas.engine_thread import EngineThread
from deployments.replicas.tier_client import ChunkLostError, Decoded
from deployments.transcript.options import TranscriptionOptions
from deployments.transcript.transcription import Transcription
from engine import Checkpoint, Engine, EngineConfig, default_precision
from tests.support.media import run_ffmpeg

Decode = Callable[[Chunk], Awaitable[Decoded]]
CONFIG = EngineConfig(precision=default_precision(torch.device("cpu")), max_slots=4)
"""The fastest that this machine has."""


@pytest.fixture(scope="module")
def engine(checkpoints: dict[str, Checkpoint]) -> Iterator[EngineThread]:
    thread = EngineThread(lambda: Engine(checkpoints["demo:tiny.en"], CONFIG))
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def decode(engine: EngineThread) -> Decode:
    """Results come back in an order of their own."""
    chance = random.Random(1)

    async def decode(chunk: Chunk) -> Decoded:
        result = await asyncio.wrap_future(engine.submit(to_request(chunk)))
        await asyncio.sleep(chance.uniform(0, 0.2))
        timings_s = {"waiting": 0.01, "prefill": 0.02, "decode": 0.03}
        return Decoded(replace(to_chunk_result(result, "tiny.en"), timings_s=timings_s), 1, 0.1)

    return decode


def options() -> TranscriptionOptions:
    from deployments.options import ChunkingOptions

    return TranscriptionOptions(chunking=ChunkingOptions(max_chunk_s=8.0))


def make_run(decode: Decode, max_in_flight: int = 3, partial: bool = False) -> RemoteRun:
    transcription = Transcription(uuid.uuid4().hex, options(), False)
    nothing = lambda *told: None  # noqa: E731
    return RemoteRun(transcription, decode, max_in_flight, nothing, nothing, partial)


def collect(run: RemoteRun, source: Source, limits: AudioLimits | None = None) -> list[list[str]]:
    """Segments' texts, as they came; without the empty list that comes first."""

    async def go() -> list[list[str]]:
        with ThreadPoolExecutor(2) as threads:
            segments = run.segments(source, limits or AudioLimits(), lambda length: None, threads)
            parts = [[segment.text for segment in ready] async for ready in segments]
            return parts[parts[:1] == [[]] :]

    return asyncio.run(go())


def local(checkpoint: Checkpoint, source: Source) -> Transcript:
    engine = Engine(checkpoint, CONFIG)
    events = list(LocalTranscriber(engine).run([Job("file", source, options())]))
    assert isinstance(events[-1], FileDone)
    return events[-1].transcript


def test_it_is_what_one_process_gives(
    decode: Decode, speech: np.ndarray, checkpoints: dict[str, Checkpoint]
) -> None:
    source = Samples(speech, 16_000)
    run = make_run(decode)
    parts = collect(run, source)
    expected = local(checkpoints["demo:tiny.en"], source)
    assert len(parts) > 1, "segments come as they are final"
    assert [text for part in parts for text in part] == [s.text for s in expected.segments]
    got = run.transcription.transcript()
    strip = [replace(s, model="") for s in got.segments]
    assert strip == [replace(s, model="") for s in expected.segments]
    assert got.text == expected.text and got.duration_s == expected.duration_s


def test_work_is_counted(decode: Decode, speech: np.ndarray) -> None:
    run = make_run(decode)
    collect(run, Samples(speech, 16_000))
    work = run.work
    assert work.n_chunks >= 4 and work.n_retries == work.n_chunks and work.n_tokens > 80
    assert work.stages_s["decode"] == pytest.approx(0.03 * work.n_chunks)
    assert work.stages_s["hops"] == pytest.approx(0.04 * work.n_chunks)
    assert {name: tier.n_chunks for name, tier in work.tiers.items()} == {"tiny.en": work.n_chunks}
    assert work.stages_s["read"] > 0 and work.stages_s["vad"] > 0


def test_no_more_chunks_are_out_than_allowed(decode: Decode, speech: np.ndarray) -> None:
    out, most = 0, 0

    async def counted(chunk: Chunk) -> Decoded:
        nonlocal out, most
        out += 1
        most = max(most, out)
        try:
            return await decode(chunk)
        finally:
            out -= 1

    collect(make_run(counted, max_in_flight=2), Samples(speech, 16_000))
    assert most == 2


def test_closing_stops_what_is_out(decode: Decode, speech: np.ndarray) -> None:
    cancelled: list[int] = []

    async def slow(chunk: Chunk) -> Decoded:
        if chunk.index == 0:
            return await decode(chunk)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(chunk.index)
            raise
        raise AssertionError

    async def go() -> None:
        run = make_run(slow)
        with ThreadPoolExecutor(2) as threads:
            segments = run.segments(
                Samples(speech, 16_000), AudioLimits(), lambda length: None, threads
            )
            async with aclosing(segments):
                async for ready in segments:
                    if ready:
                        break

    asyncio.run(go())
    assert {1, 2} <= set(cancelled)  # the third may not have begun


def test_a_run_says_that_its_audio_is_some_before_any_of_it_is_decoded(
    speech: np.ndarray,
) -> None:
    async def never(chunk: Chunk) -> Decoded:
        await asyncio.sleep(1000)
        raise AssertionError

    async def go(source: Source) -> list[list[TranscriptSegment]]:
        with ThreadPoolExecutor(2) as threads:
            run = make_run(never, partial=True)
            segments = run.segments(source, AudioLimits(), lambda length: None, threads)
            async with aclosing(segments):
                return [await anext(segments)]

    assert asyncio.run(go(Samples(speech, 16_000))) == [[]]
    with pytest.raises(NotAudioError):
        asyncio.run(go(b"no audio"))


def test_a_lost_chunk_names_its_place(decode: Decode, speech: np.ndarray) -> None:
    async def loses_one(chunk: Chunk) -> Decoded:
        if chunk.index == 2:
            raise ChunkLostError(2)
        return await decode(chunk)

    run = make_run(loses_one)
    with pytest.raises(ChunkFailedError) as caught:
        collect(run, Samples(speech, 16_000))
    error = caught.value
    assert 8 <= error.start_s < error.end_s <= 30 and error.attempts == 2


def test_the_length_is_told_before_anything_is_decoded(decode: Decode, speech: np.ndarray) -> None:
    def refuse(length_s: float | None) -> None:
        assert length_s == pytest.approx(len(speech) / 16_000)
        raise OverloadedError("no room", 3.0)

    async def go() -> None:
        with ThreadPoolExecutor(2) as threads:
            run = make_run(decode)
            segments = run.segments(Samples(speech, 16_000), AudioLimits(), refuse, threads)
            async for _ in segments:
                pass

    with pytest.raises(OverloadedError):
        asyncio.run(go())


@pytest.mark.parametrize("partial", [False, True])
def test_broken_audio(decode: Decode, speech: np.ndarray, tmp_path: Path, partial: bool) -> None:
    soundfile.write(tmp_path / "whole.wav", speech, 16_000)
    content = (tmp_path / "whole.wav").read_bytes()
    twice = ("-stream_loop", "1", "-i", tmp_path / "whole.wav")
    endless = run_ffmpeg(*twice, "-f", "flac", "-")  # states no length
    seen: list[list[TranscriptSegment]] = []

    async def go() -> None:
        with ThreadPoolExecutor(2) as threads:
            run = make_run(decode, partial=partial)
            limits = AudioLimits(max_duration_s=45)
            segments = run.segments(endless, limits, lambda length: None, threads)
            async for ready in segments:
                seen.append(ready)

    with pytest.raises(AudioTooLongError):
        asyncio.run(go())
    if partial:
        assert seen[-1][-1].end_s > 5, "all there was is transcribed first"
    with pytest.raises(NotAudioError):
        collect(make_run(decode, partial=partial), b"no audio")
    with pytest.raises(AudioTooLongError):
        collect(make_run(decode, partial=partial), content, AudioLimits(max_duration_s=10))


def test_an_open_file_is_read_and_closed(decode: Decode, tmp_path: Path) -> None:
    clip = Path(__file__).parents[2] / "data" / "librivox-0870.wav"
    file = open(clip, "rb", buffering=0)
    [texts] = collect(make_run(decode), file)
    assert "leisure" in "".join(texts) and file.closed
    again = io.BytesIO(clip.read_bytes())
    with pytest.raises(AudioTooLongError):
        collect(make_run(decode), again, AudioLimits(max_duration_s=1))
    assert again.closed


def test_nothing_stays_open(decode: Decode, speech: np.ndarray, tmp_path: Path) -> None:
    """ffmpeg is ended, wherever a run stops."""
    soundfile.write(tmp_path / "long.mp3", speech, 16_000)
    before = len(os.listdir("/proc/self/fd"))

    async def go() -> None:
        with ThreadPoolExecutor(2) as threads:
            segments = make_run(decode).segments(
                str(tmp_path / "long.mp3"), AudioLimits(), lambda length: None, threads
            )
            async with aclosing(segments):
                async for _ in segments:
                    break

    for _ in range(3):
        asyncio.run(go())
    assert len(os.listdir("/proc/self/fd")) <= before
