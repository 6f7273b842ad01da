"""Real models on real speech: each word once, at its time, though the model left it out or it was
all but too quiet."""

import io
import re

import numpy as np
import pytest
import soundfile

from deployments.local import FileDone, Job, LocalTranscriber
from deployments.messages import Transcript
from deployments.transcript.options import TranscriptionOptions
from engine import SAMPLE_RATE, DecodingOptions, Engine
from tests.deployments.transcript.test_loudness import at_peak

PROMPT = "Notes of a meeting with Claude: the budget, the plan, the schedule."


def transcribe(engine: Engine, pcm: np.ndarray, prompt: str | None = None) -> Transcript:
    file = io.BytesIO()
    soundfile.write(file, pcm, SAMPLE_RATE, format="WAV")
    options = TranscriptionOptions(DecodingOptions(language="en", prompt=prompt))
    events = LocalTranscriber(engine).run([Job("file", file.getvalue(), options)])
    (done,) = [event for event in events if isinstance(event, FileDone)]
    return done.transcript


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower().replace("mister", "mr").replace("-", ""))


def silence(duration_s: float) -> np.ndarray:
    return np.zeros(round(duration_s * SAMPLE_RATE), np.int16)


@pytest.mark.parametrize("prompt", [PROMPT, "Sense and Sensibility."])
def test_a_sentence_behind_a_text_that_has_no_end(
    prompt: str,
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
    transcripts: dict[str, str],
) -> None:
    """The one prompt makes tiny.en give no end, the other an end behind the next word."""
    names = ("librivox-0890.wav", "librivox-0870.wav")
    first, second = (clips[name] for name in names)
    pcm = np.concatenate([silence(1.2), first, silence(1.2), second])
    transcript = transcribe(engines["demo:tiny.en"], pcm, prompt)
    spoken = " ".join(transcripts[name] for name in names).replace("cold hearted", "coldhearted")
    spoken = spoken.replace("ill disposed", "illdisposed")
    assert words(transcript.text) == words(spoken)
    border = 1.2 + len(first) / SAMPLE_RATE
    before = [segment for segment in transcript.segments if segment.start_s < border]
    behind = transcript.segments[len(before) :]
    assert 1.0 < before[0].start_s < 1.5 and border - 0.5 < before[-1].end_s < border + 1.2
    assert border + 0.3 < behind[0].start_s and behind[-1].end_s <= len(pcm) / SAMPLE_RATE


@pytest.mark.more
def test_a_sentence_between_two_others(
    engines: dict[str, Engine], clips: dict[str, np.ndarray], transcripts: dict[str, str]
) -> None:
    """Said twice, and written once by base with this prompt."""
    said, last = clips["librivox-0920.wav"], clips["librivox-0880.wav"]
    pcm = np.concatenate([said, silence(1.2), said, silence(0.6), last])
    transcript = transcribe(engines["demo:base"], pcm, PROMPT)
    assert transcript.text.count("more respectable than he was") == 2
    assert transcript.text.count("young man") == 1
    starts = [segment.start_s for segment in transcript.segments]
    assert starts == sorted(starts)


@pytest.mark.parametrize("dbfs", [-40, -55])
def test_a_quiet_file(
    dbfs: float, engines: dict[str, Engine], clips: dict[str, np.ndarray], transcripts: dict
) -> None:
    pcm = at_peak(np.concatenate([silence(0.5), clips["librivox-0870.wav"]]), dbfs)
    transcript = transcribe(engines["demo:tiny.en"], pcm)
    assert words(transcript.text) == words(transcripts["librivox-0870.wav"])


def test_the_far_side_of_a_call(
    engines: dict[str, Engine], clips: dict[str, np.ndarray], transcripts: dict[str, str]
) -> None:
    near, far = clips["librivox-0920.wav"], clips["librivox-0930.wav"]
    parts = [at_peak(near, -3), silence(0.3), at_peak(far, -33), silence(0.3), at_peak(near, -3)]
    text = transcribe(engines["demo:tiny.en"], np.concatenate(parts)).text
    spoken = [transcripts[f"librivox-{name}.wav"] for name in ("0920", "0930", "0920")]
    assert words(text) == words(" ".join(spoken))
