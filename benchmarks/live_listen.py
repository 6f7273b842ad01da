"""How far text is behind speech at any server that speaks Deepgram's protocol, in real time.

    python -m benchmarks.make_speech en.wav --language en --minutes 10
    python -m benchmarks.live_listen en.wav --model demo:tiny.en
    python -m benchmarks.live_listen en.wav --url http://127.0.0.1:9000 --name whisperlivekit

Without --url Murmur is served on this machine, one replica on each core. WhisperLiveKit, in an
environment of its own, serves the same weights from the demo package's CTranslate2 folder:

    whisperlivekit-server --model_dir FOLDER --lan en --pcm-input --port 9000
        --backend-policy localagreement --backend faster-whisper

When words end is the same for all: it is what Murmur's base hears in the recording as a file. A
server's words are aligned with these.

shown     From the end of a word to the first message since which it stood in its place; median and
          95th percentile.
final     From the end of a word to the final result with it.
matched   Share of the file's words that the server's text has.
WER       Of the server's text.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx2
import numpy as np
from websockets.asyncio.client import connect

from benchmarks.clusters import SAMPLE_RATE, serving, wav
from benchmarks.live import BLOCK_S, Part, parts_of
from benchmarks.scoring import wer

_END_TIMEOUT_S = 120.0
_BARE = str.maketrans("", "", ".,!?;:\"'()-")


class Told(NamedTuple):
    """A result: when it came, in seconds since the first sample, its words, whether it is final."""

    at_s: float
    words: tuple[str, ...]
    is_final: bool


class Spoken(NamedTuple):
    """A word of the recording and when it ends, in seconds from its beginning."""

    text: str
    end_s: float


@dataclass(frozen=True)
class Row:
    """One number of sessions. Times in seconds, error rates and `matched` as shares."""

    server: str
    sessions: int
    shown_p50_s: float
    shown_p95_s: float
    final_p50_s: float
    final_p95_s: float
    matched: float
    wer: float
    words: int


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    truth = json.loads(options.speech.with_suffix(".json").read_text(encoding="utf-8"))
    most = max(options.sessions)
    parts = parts_of(options.speech, truth, most, options.seconds)
    with serving({"tiers": [{"name": "base", "model": "demo:base"}]}) as url:
        spoken = [_spoken(url, part) for part in parts]
    if options.url:
        rows = _measure(options.url, options.name, parts, spoken, truth, options)
    else:
        tier = {"name": "bench", "model": options.model, "min_replicas": 2, "max_replicas": 2}
        with serving({"tiers": [tier]}) as url:
            rows = _measure(url, f"murmur {options.model}", parts, spoken, truth, options)
    print(json.dumps([asdict(row) for row in rows]))


def _measure(
    url: str,
    name: str,
    parts: Sequence[Part],
    spoken: Sequence[Sequence[Spoken]],
    truth: dict[str, Any],
    options: argparse.Namespace,
) -> list[Row]:
    rows = []
    for n in options.sessions:
        told = asyncio.run(_all(url, parts[:n], options.query))
        rows.append(_row(name, parts[:n], spoken[:n], told, truth["language"]))
        print(_line(rows[-1]), flush=True)
    return rows


async def _all(url: str, parts: Sequence[Part], query: dict[str, str]) -> list[list[Told]]:
    return list(await asyncio.gather(*(_listen(url, p, n, query) for n, p in enumerate(parts))))


async def _listen(url: str, part: Part, index: int, query: dict[str, str]) -> list[Told]:
    await asyncio.sleep(index * 0.37)  # people do not begin at once
    asked = {
        "encoding": "linear16",
        "sample_rate": str(SAMPLE_RATE),
        "interim_results": "true",
        "endpointing": "500",
        **query,
    }
    address = f"ws{url.removeprefix('http')}/v1/listen?{urlencode(asked)}"
    async with connect(address, max_size=None, open_timeout=120) as socket:
        began_s = time.monotonic()
        speaking = asyncio.create_task(_speak(socket, part, began_s))
        told = []
        async with asyncio.timeout(len(part.pcm) / SAMPLE_RATE + _END_TIMEOUT_S):
            async for message in socket:
                event = json.loads(message)
                if event["type"] == "Metadata" and speaking.done():
                    break
                if event["type"] == "Results":
                    at_s = time.monotonic() - began_s
                    words = event["channel"]["alternatives"][0]["transcript"].split()
                    told.append(Told(at_s, tuple(words), event["is_final"]))
        await speaking
    return told


async def _speak(socket: Any, part: Part, began_s: float) -> None:
    """Send audio when it would have been spoken; then end the stream."""
    size = round(BLOCK_S * SAMPLE_RATE)
    for start in range(0, len(part.pcm), size):
        block = part.pcm[start : start + size]
        spoken_s = began_s + (start + len(block)) / SAMPLE_RATE
        await asyncio.sleep(max(0.0, spoken_s - time.monotonic()))
        await socket.send(block.astype("<i2").tobytes())
    await socket.send(json.dumps({"type": "CloseStream"}))


def when_words_came(told: Sequence[Told]) -> list[tuple[str, float, float]]:
    """The words of the final text, each with the time since which it stood in its place, and the
    time of the final result with it."""
    final: list[str] = []
    final_s: list[float] = []
    shown: list[tuple[float, list[str]]] = []
    for each in told:
        shown.append((each.at_s, [*final, *each.words]))
        if each.is_final:
            final += each.words
            final_s += [each.at_s] * len(each.words)
    found = []
    for index, word in enumerate(final):
        since_s = final_s[index]
        for at_s, words in reversed(shown):
            if at_s > final_s[index]:
                continue
            if index >= len(words) or _bare(words[index]) != _bare(word):
                break
            since_s = at_s
        found.append((word, since_s, final_s[index]))
    return found


def _row(
    name: str,
    parts: Sequence[Part],
    spoken: Sequence[Sequence[Spoken]],
    told: Sequence[Sequence[Told]],
    language: str,
) -> Row:
    shown_s: list[float] = []
    final_s: list[float] = []
    n_words = n_errors = n_said = 0
    for part, words, messages in zip(parts, spoken, told, strict=True):
        came = when_words_came(messages)
        first = [_bare(word.text) for word in words]
        second = [_bare(text) for text, _, _ in came]
        n_words += len(first)
        for block in SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks():
            for i in range(block.size):
                _, at_s, end_s = came[block.b + i]
                shown_s.append(at_s - words[block.a + i].end_s)
                final_s.append(end_s - words[block.a + i].end_s)
        errors = wer(part.text, " ".join(text for text, _, _ in came), language)
        n_errors += errors.errors
        n_said += errors.length
    return Row(
        server=name,
        sessions=len(parts),
        shown_p50_s=round(float(np.median(shown_s)), 3),
        shown_p95_s=round(float(np.percentile(shown_s, 95)), 3),
        final_p50_s=round(float(np.median(final_s)), 3),
        final_p95_s=round(float(np.percentile(final_s, 95)), 3),
        matched=round(len(shown_s) / max(1, n_words), 3),
        wer=round(n_errors / max(1, n_said), 4),
        words=len(shown_s),
    )


def _bare(word: str) -> str:
    return word.lower().translate(_BARE)


def _line(row: Row) -> str:
    return (
        f"{row.server:24} {row.sessions} sessions  shown {row.shown_p50_s:.2f} / "
        f"{row.shown_p95_s:.2f} s  final {row.final_p50_s:.2f} / {row.final_p95_s:.2f} s  "
        f"matched {row.matched:.2f}  WER {row.wer:.3f}  ({row.words} words)"
    )


def _spoken(url: str, part: Part) -> list[Spoken]:
    """The words of a part and their ends, as a file."""
    answer = httpx2.post(
        f"{url}/v1/audio/transcriptions",
        data={
            "model": "base",
            "response_format": "verbose_json",
            "timestamp_granularities": "word",
        },
        files={"file": ("a.wav", wav(part.pcm))},
        timeout=600,
    )
    answer.raise_for_status()
    return [Spoken(word["word"], word["end"]) for word in answer.json()["words"]]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def pairs(text: str) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in text.split("&") if pair)

    parser = argparse.ArgumentParser(description="How far text is behind speech, over /v1/listen.")
    parser.add_argument("speech", type=Path, help="of benchmarks.make_speech")
    parser.add_argument("--model", default="demo:tiny.en", help="of Murmur")
    parser.add_argument("--url", help="of another server that runs already")
    parser.add_argument("--name", default="other", help="of that server")
    parser.add_argument(
        "--sessions", type=lambda text: list(map(int, text.split(","))), default=[1, 4, 8]
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--query", type=pairs, default={}, help="more parameters: a=b&c=d")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
