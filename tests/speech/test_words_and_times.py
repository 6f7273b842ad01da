"""Ten minutes of each language: words, times, nothing lost or doubled, beside faster-whisper."""

import pytest

from benchmarks import scoring
from benchmarks.scoring import TimedText
from benchmarks.systems import FACTORIES
from deployments.local import FileDone, Job, LocalTranscriber
from deployments.options import ChunkingOptions
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.options import TranscriptionOptions
from engine import DecodingOptions, Engine
from tests.speech.conftest import load

pytestmark = pytest.mark.speech

CASES = [
    ("demo:tiny.en", "en"),
    ("demo:base", "en"),
    ("demo:base", "es"),
    ("demo:base", "fr"),
    ("demo:base", "it"),
    ("demo:base", "ru"),
]


def transcribe(system: str, model: str, language: str) -> list[TimedText]:
    return FACTORIES[system](model, "float32").transcribe(load("long", language).path, language)


@pytest.mark.parametrize(("model", "language"), CASES)
def test_no_worse_than_faster_whisper(model: str, language: str) -> None:
    """Word error rate at the same precision, against the better of its two ways."""
    recording = load("long", language)

    def rate(system: str) -> float:
        text = " ".join(s.text for s in transcribe(system, model, language))
        return scoring.wer(recording.text, text, language).rate

    theirs = {name: rate(name) for name in ("faster-whisper", "faster-whisper-batched")}
    ours = rate("murmur")
    print(f"\n{model} {language}: murmur {ours:.4f}, {theirs}")
    assert ours <= min(theirs.values())


@pytest.mark.parametrize(("model", "language"), CASES)
@pytest.mark.parametrize("system", ["murmur", "murmur-parallel"])
def test_starts_are_true_and_nothing_is_doubled(system: str, model: str, language: str) -> None:
    recording = load("long", language)
    segments = transcribe(system, model, language)
    starts = scoring.start_error_s(recording.segments, segments, language)
    assert starts.median_s is not None and starts.median_s < 0.3
    assert starts.measured_share > 0.4
    text = " ".join(s.text for s in segments)
    presence = scoring.presence(recording.segments, text, language)
    assert not presence.doubled
    if language in ("en", "es"):  # elsewhere some references say what is not in the audio
        assert not presence.dropped


@pytest.mark.parametrize("max_chunk_s", [8.0, 13.0, 19.0, 24.0, 27.0, 29.5])
@pytest.mark.parametrize("model", ["demo:tiny.en", "demo:base"])
def test_wherever_the_cuts_fall_every_segment_is_there_once(
    max_chunk_s: float, model: str, engines: dict[str, Engine]
) -> None:
    recording = load("long", "en")
    options = TranscriptionOptions(
        DecodingOptions(language="en"),
        FallbackOptions(temperatures=(0.0,)),
        ChunkingOptions(max_chunk_s=max_chunk_s),
    )
    (transcript,) = (
        event.transcript
        for event in LocalTranscriber(engines[model]).run([Job("en", str(recording.path), options)])
        if isinstance(event, FileDone)
    )
    presence = scoring.presence(recording.segments, transcript.text, "en")
    rate = scoring.wer(recording.text, transcript.text, "en").rate
    print(f"\n{model} {max_chunk_s}: WER {rate:.4f}, lost {len(presence.lost)}")
    assert not presence.lost and not presence.doubled
    assert rate < 0.04
