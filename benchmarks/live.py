"""How far text is behind speech, in live sessions that run in real time.

    python -m benchmarks.make_speech en.wav --language en --minutes 10
    python -m benchmarks.live en.wav [--model demo:tiny.en] [--sessions 1,4,8] [--seconds 60]

A real cluster on this machine, one replica on each core, hears recordings at their own pace over
WebSockets. Each session hears another part. Prints a table, then one JSON line.

word      From the end of a word, by the times of the final text, to the moment at which its text
          arrived; median and 95th percentile.
turn      From the end of a turn (its silence of half a second included) to its whole text.
LAAL      Length-adaptive average lagging of a turn (arXiv:2206.05807), with the clock of this
          machine; median.
WER       Of the live text, and of the same audio sent as files.

The client shares the machine, so its own work counts, too.
"""

import argparse
import asyncio
import base64
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import soundfile
from websockets.asyncio.client import connect

from benchmarks.clusters import SAMPLE_RATE, serving, wav
from benchmarks.scoring import ErrorRate, wer

BLOCK_S = 0.1
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


@dataclass(frozen=True)
class Part:
    """A part of a recording, and the words that are said in it."""

    pcm: npt.NDArray[np.int16]
    text: str


@dataclass
class Heard:
    """What a session said. Times are seconds since its first sample, by the clock on the wall.

    Attributes:
        word_ends_s: when each word was over, of `word_lags_s`.
    """

    text: list[str] = field(default_factory=list)
    word_ends_s: list[float] = field(default_factory=list)
    word_lags_s: list[float] = field(default_factory=list)
    turn_lags_s: list[float] = field(default_factory=list)
    laal_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """One number of sessions. Times in seconds, error rates as shares."""

    model: str
    policy: str
    delay: str
    sessions: int
    word_p50_s: float
    word_p95_s: float
    turn_p50_s: float
    turn_p95_s: float
    laal_s: float
    wer: float
    file_wer: float
    words: int


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    truth = json.loads(options.speech.with_suffix(".json").read_text(encoding="utf-8"))
    rows = []
    for model in options.model.split(","):
        tier = {
            "name": "bench",
            "model": model,
            "min_replicas": options.replicas,
            "max_replicas": options.replicas,
        }
        with serving({"tiers": [tier]}) as url:
            for n_sessions in map(int, options.sessions.split(",")):
                parts = parts_of(options.speech, truth, n_sessions, options.seconds)
                for policy in options.policy.split(","):
                    for delay in options.delay.split(","):
                        wish = {"model": "bench", "policy": policy, "delay": delay}
                        heard = asyncio.run(_all(url, parts, wish))
                        errors = _wer(parts, [" ".join(h.text) for h in heard], truth)
                        files = _wer(parts, [_file_text(url, part) for part in parts], truth)
                        rows.append(_row(model, policy, delay, heard, errors, files))
                        print(_line(rows[-1]), flush=True)
    print(json.dumps([asdict(row) for row in rows]))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("speech", type=Path, help="a recording of benchmarks.make_speech")
    parser.add_argument("--model", default="demo:tiny.en")
    parser.add_argument("--sessions", default="1,4,8")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--policy", default="align_att")
    parser.add_argument("--delay", default="low")
    return parser.parse_args(arguments)


def parts_of(path: Path, truth: dict[str, Any], n: int, seconds: float) -> list[Part]:
    """Parts of a recording, each from the beginning of a sentence."""
    pcm, rate = soundfile.read(path, dtype="int16")
    assert rate == SAMPLE_RATE and pcm.ndim == 1
    segments = truth["segments"]
    parts = []
    for index in range(n):
        earliest = index * max(1.0, len(pcm) / rate - seconds - 10) / max(1, n)
        first = next(s for s in segments if s["start"] >= earliest)["start"]
        inside = [s for s in segments if first <= s["start"] and s["end"] <= first + seconds]
        start, stop = max(0.0, first - 0.5), inside[-1]["end"] + 0.7
        text = " ".join(s["text"] for s in inside)
        parts.append(Part(pcm[round(start * rate) : round(stop * rate)], text))
    return parts


async def _all(url: str, parts: Sequence[Part], wish: dict[str, str]) -> list[Heard]:
    return list(await asyncio.gather(*(_one_of(url, p, wish, n) for n, p in enumerate(parts))))


async def _one_of(url: str, part: Part, wish: dict[str, str], index: int) -> Heard:
    await asyncio.sleep(index * 0.37)  # people do not begin at once
    heard = Heard()
    await hear(url, part.pcm, wish, heard)
    return heard


async def hear(
    url: str,
    pcm: npt.NDArray[np.int16],
    wish: dict[str, str],
    heard: Heard,
    speed: float = 1.0,
) -> None:
    """Run a session with this audio, and add what it says as it says it.

    Args:
        wish: the session's `transcription`.
        speed: how much faster than people the audio is spoken.
    """
    address = f"ws{url.removeprefix('http')}/v1/realtime?intent=transcription"
    async with connect(address, max_size=None, open_timeout=60) as socket:
        audio = {"format": {"type": "audio/pcm", "rate": SAMPLE_RATE}, "transcription": wish}
        session = {"type": "transcription", "audio": {"input": audio}}
        await socket.send(json.dumps({"type": "session.update", "session": session}))
        while (event := json.loads(await socket.recv()))["type"] != "session.updated":
            assert event["type"] == "session.created", event
        began_s = time.monotonic()
        speaking = asyncio.create_task(_speak(socket, pcm, began_s, speed))
        await _listen(socket, began_s, heard, speed)
        await speaking


async def _speak(socket: Any, pcm: npt.NDArray[np.int16], began_s: float, speed: float) -> None:
    """Send audio when it would have been spoken; then end the turn that is open, if one is."""
    size = round(BLOCK_S * SAMPLE_RATE)
    for start in range(0, len(pcm), size):
        block = pcm[start : start + size]
        spoken_s = began_s + (start + len(block)) / SAMPLE_RATE / speed
        await asyncio.sleep(max(0.0, spoken_s - time.monotonic()))
        event = {
            "type": "input_audio_buffer.append",
            "audio": base64.b64encode(block.tobytes()).decode(),
        }
        await socket.send(json.dumps(event))
    await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
    # Its answer comes behind what the commit gives.
    await socket.send(json.dumps({"type": "conversation.item.retrieve", "item_id": "end"}))


async def _listen(socket: Any, began_s: float, heard: Heard, speed: float) -> None:
    told: dict[str, list[tuple[float, str]]] = {}
    ended_s: dict[str, float] = {}
    open_items: set[str] = set()
    is_over = False
    while not (is_over and not open_items):
        event = json.loads(await socket.recv())
        now_s, kind = time.monotonic() - began_s, event["type"]
        if kind == f"{_TRANSCRIPTION}.delta":
            told.setdefault(event["item_id"], []).append((now_s, event["delta"]))
        elif kind == "input_audio_buffer.speech_stopped":
            ended_s[event["item_id"]] = event["audio_end_ms"] / 1000 / speed
        elif kind == "input_audio_buffer.committed":
            open_items.add(event["item_id"])
        elif kind == f"{_TRANSCRIPTION}.completed":
            item = event["item_id"]
            open_items.discard(item)
            heard.text.append(event["transcript"])
            if item in ended_s:
                heard.turn_lags_s.append(now_s - ended_s[item])
            _count_words(heard, event, told.pop(item, []), speed)
        elif kind == "error" and event["error"]["code"] == "item_not_found":
            is_over = True
        assert not kind.endswith(".failed"), event


def _count_words(
    heard: Heard, event: dict[str, Any], deltas: list[tuple[float, str]], speed: float
) -> None:
    """Add the lags of a turn's words: a word is told with the delta that has its last letter."""
    text, edges = "", []
    for at_s, delta in deltas:
        text += delta
        edges.append((at_s, len(text)))
    position, delays_s = 0, []
    start_s, stop_s = (event[f"audio_{edge}_ms"] / 1000 / speed for edge in ("start", "end"))
    for word in event["words"]:
        position = text.index(word["word"], position) + len(word["word"])
        at_s = next(at_s for at_s, length in edges if length >= position)
        end_s = word["end"] / speed
        heard.word_ends_s.append(end_s)
        heard.word_lags_s.append(at_s - end_s)
        delays_s.append(at_s - start_s)
    if delays_s:
        heard.laal_s.append(_laal(delays_s, stop_s - start_s))


def _laal(delays_s: Sequence[float], length_s: float) -> float:
    """Average lagging behind an ideal speaker's pace, up to the first word that is told when all of
    the turn was heard."""
    pace_s = length_s / len(delays_s)
    n = next((i + 1 for i, delay in enumerate(delays_s) if delay >= length_s), len(delays_s))
    return sum(delay - i * pace_s for i, delay in enumerate(delays_s[:n])) / n


def _file_text(url: str, part: Part) -> str:
    answer = httpx2.post(
        f"{url}/v1/audio/transcriptions",
        data={"model": "bench", "response_format": "text"},
        files={"file": ("a.wav", wav(part.pcm))},
        timeout=600,
    )
    answer.raise_for_status()
    return answer.text


def _wer(parts: Sequence[Part], texts: Sequence[str], truth: dict[str, Any]) -> ErrorRate:
    counts = [wer(p.text, text, truth["language"]) for p, text in zip(parts, texts, strict=True)]
    return ErrorRate(
        sum(c.substitutions for c in counts),
        sum(c.deletions for c in counts),
        sum(c.insertions for c in counts),
        sum(c.length for c in counts),
    )


def _row(
    model: str, policy: str, delay: str, heard: Sequence[Heard], live: ErrorRate, file: ErrorRate
) -> Row:
    words = [lag for each in heard for lag in each.word_lags_s]
    turns = [lag for each in heard for lag in each.turn_lags_s]
    return Row(
        model=model,
        policy=policy,
        delay=delay,
        sessions=len(heard),
        word_p50_s=round(median(words), 3),
        word_p95_s=round(float(np.percentile(words, 95)), 3),
        turn_p50_s=round(median(turns), 3),
        turn_p95_s=round(float(np.percentile(turns, 95)), 3),
        laal_s=round(median(lag for each in heard for lag in each.laal_s), 3),
        wer=round(live.rate, 4),
        file_wer=round(file.rate, 4),
        words=len(words),
    )


def _line(row: Row) -> str:
    return (
        f"{row.model:14} {row.policy:15} {row.delay:7} {row.sessions} sessions  "
        f"word {row.word_p50_s:.2f} / {row.word_p95_s:.2f} s  "
        f"turn {row.turn_p50_s:.2f} / {row.turn_p95_s:.2f} s  LAAL {row.laal_s:.2f} s  "
        f"WER {row.wer:.3f}, file {row.file_wer:.3f}  ({row.words} words)"
    )


if __name__ == "__main__":
    main()
