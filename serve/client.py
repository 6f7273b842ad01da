"""A Python client for the cluster, with the same two calls over HTTP and over a Ray handle.

with connect("http://127.0.0.1:8000") as client:      # from anywhere
with connect("murmur") as client:                     # from a Ray job of the same cluster
    transcript = client.transcribe(open("talk.mp3", "rb").read())
    for segment in client.stream(samples, sample_rate=44_100):
        print(segment.start_s, segment.text)
"""

import io
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import httpx2
import numpy as np
import soundfile

from deployments.audio.reading import Samples
from deployments.errors import DeploymentError, OptionError
from deployments.live.events import Event
from deployments.live.options import LiveOptions
from deployments.messages import AudioInfo, AudioWarning, Transcript, TranscriptSegment
from deployments.options import ChunkingOptions, TranscribeOptions, VadOptions
from engine import SAMPLE_RATE, Word, language_code
from serve.addresses import is_this_machine
from serve.live_client import Feeding, LiveClient, Piece

Audio = bytes | str | os.PathLike[str] | np.ndarray[Any, Any]
"""The bytes of a file, a path on this machine, or samples (int16 or floats, shape (n,) or
(n, n_channels))."""
_MAX_PIECES = 1_000
"""Pieces of live audio that wait for the cluster."""


class ServerError(DeploymentError):
    """An HTTP answer that is not a transcript. Its fields are those of OpenAI's error body."""

    def __init__(self, status: int, message: str, param: str | None, code: str | None) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message, self.param, self.code = status, message, param, code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.message, self.param, self.code)


class Client(Protocol):
    """A client of a cluster. Use it as a context manager, or `close` it."""

    def transcribe(
        self,
        audio: Audio,
        options: TranscribeOptions | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> Transcript:
        """Transcribe a file.

        Args:
            sample_rate: in Hz, if the audio is samples.

        Raises:
            DeploymentError: over a handle one of its subclasses, over HTTP a ServerError.
        """

    def stream(
        self,
        audio: Audio,
        options: TranscribeOptions | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> Iterator[TranscriptSegment]:
        """Yield segments as they become final, in file order. Over HTTP they have text and times,
        but no tokens."""

    def live(self, audio: Iterable[Piece], options: LiveOptions | None = None) -> Iterator[Event]:
        """Transcribe speech while it is spoken.

        Args:
            audio: pieces of it: bytes in the options' encoding, or int16 samples of one channel at
                their rate; `"commit"` ends a turn, `"clear"` forgets audio that was not committed.
                It is read on a thread of its own.

        Yields:
            What is heard (`deployments.live.events`). Over HTTP a connection that is lost is made
            anew, and turns that were not completed are told again, under other ids.

        Raises:
            DeploymentError: over a handle one of its subclasses, over HTTP a LiveError.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def connect(target: str, api_key: str | None = None, timeout_s: float = 3600.0) -> Client:
    """A client for an address (`http://...`, without `/v1`) or an application of this Ray cluster.

    Args:
        api_key: for HTTP.
        timeout_s: for HTTP, the longest wait for the server within a call.
    """
    if target.startswith(("http://", "https://")):
        return HttpClient(target, api_key, timeout_s)
    return HandleClient(target)


class _Closing:
    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class HandleClient(_Closing):
    """Calls the application's handle. The process must be connected to its Ray cluster."""

    def __init__(self, app_name: str = "murmur") -> None:
        from ray import serve as ray_serve  # callers over HTTP need no Ray

        self._handle = ray_serve.get_app_handle(app_name)

    def transcribe(
        self,
        audio: Audio,
        options: TranscribeOptions | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> Transcript:
        options = options or TranscribeOptions()  # pickled options name the calling process
        response: Any = self._handle.transcribe.remote(_content(audio), options, sample_rate)
        try:
            return cast(Transcript, response.result())
        except BaseException:
            response.cancel()  # otherwise the work of an interrupted caller would go on
            raise

    def stream(
        self,
        audio: Audio,
        options: TranscribeOptions | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> Iterator[TranscriptSegment]:
        handle = self._handle.options(stream=True)
        options = options or TranscribeOptions()
        segments: Any = handle.stream.remote(_content(audio), options, sample_rate)
        try:
            yield from segments
        finally:
            segments.cancel()  # has no effect on a call that is done

    def live(self, audio: Iterable[Piece], options: LiveOptions | None = None) -> Iterator[Event]:
        from ray.util.queue import Queue

        pieces = Queue(maxsize=_MAX_PIECES, actor_options={"num_cpus": 0})
        feeding = Feeding(audio, pieces)
        events: Any = self._handle.options(stream=True).live.remote(
            pieces, options or LiveOptions()
        )
        try:
            for event in events:
                yield event
                feeding.check()
            feeding.check()
        finally:
            feeding.stop()
            events.cancel()
            pieces.shutdown(force=True)


class HttpClient(_Closing):
    """Calls the HTTP routes."""

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 3600.0) -> None:
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        # The environment may name a proxy, which cannot reach this machine.
        trust_env = not is_this_machine(url)
        self._http = httpx2.Client(
            base_url=url, headers=headers, timeout=timeout_s, trust_env=trust_env
        )
        self._url, self._api_key = url, api_key

    def transcribe(
        self,
        audio: Audio,
        options: TranscribeOptions | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> Transcript:
        options = options or TranscribeOptions()
        with _file(audio, sample_rate) as file:
            answer = self._http.post(
                _route(options), data=_fields(options), files={"file": ("audio", file)}
            )
        if answer.status_code != 200:
            raise _server_error(answer.status_code, answer.text)
        return _transcript(answer.json())

    def stream(
        self,
        audio: Audio,
        options: TranscribeOptions | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> Iterator[TranscriptSegment]:
        options = options or TranscribeOptions()
        fields = _fields(options) | {"stream": "true"}
        with (
            _file(audio, sample_rate) as file,
            self._http.stream(
                "POST", _route(options), data=fields, files={"file": ("audio", file)}
            ) as answer,
        ):
            if answer.status_code != 200:
                raise _server_error(answer.status_code, answer.read().decode())
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield from _segments(json.loads(line.removeprefix("data:")), options)

    def live(self, audio: Iterable[Piece], options: LiveOptions | None = None) -> Iterator[Event]:
        return LiveClient(self._url, self._api_key, options or LiveOptions(), audio).events()

    def close(self) -> None:
        self._http.close()


def _content(audio: Audio) -> bytes | np.ndarray[Any, Any]:
    """What is sent. A path belongs to this machine, so its file is read here."""
    if isinstance(audio, str | os.PathLike):
        return Path(audio).read_bytes()
    return audio


def _file(audio: Audio, sample_rate: int) -> io.BytesIO | io.BufferedReader:
    if isinstance(audio, str | os.PathLike):
        return Path(audio).open("rb")
    if isinstance(audio, bytes):
        return io.BytesIO(audio)
    samples = Samples(audio, sample_rate)
    wav = io.BytesIO()
    subtype = "PCM_16" if samples.pcm.dtype == np.int16 else "FLOAT"
    soundfile.write(wav, samples.pcm, sample_rate, subtype=subtype, format="WAV")
    wav.seek(0)
    return wav


def _route(options: TranscribeOptions) -> str:
    return "/v1/audio/" + ("translations" if options.task == "translate" else "transcriptions")


def _fields(options: TranscribeOptions) -> dict[str, Any]:
    """Options as form fields.

    Raises:
        OptionError: the form has no field for an option.
    """
    fields = {
        "model": options.model,
        "response_format": "verbose_json",
        "language": options.language,
        "languages[]": list(options.languages),
        "multilingual": "true" if options.multilingual else None,
        "prompt": options.prompt,
        "keywords[]": list(options.keywords),
        "keyword_boost": str(options.keyword_boost),
        "temperature": str(options.temperature),
        "beam_size": options.beam_size and str(options.beam_size),
        "patience": str(options.patience),
        "best_of": str(options.best_of),
        "length_penalty": _text_of(options.length_penalty),
        "timestamp_granularities[]": ["segment", "word"] if options.words else [],
        "hallucination_silence_threshold": _text_of(options.hallucination_silence_threshold),
        "context_chunks": str(options.context_chunks),
        "quality": options.quality and options.quality.value,
        "priority": options.priority.value,
        "deadline_s": options.deadline_s and str(options.deadline_s),
        "track": options.track,
        **_strategy(options),
    }
    return {name: value for name, value in fields.items() if value}


def _text_of(number: float | None) -> str | None:
    return None if number is None else str(number)


def _strategy(options: TranscribeOptions) -> dict[str, str]:
    vad, chunking = options.vad, options.chunking
    if vad == VadOptions() and chunking == ChunkingOptions():
        return {}
    silence_ms, padding_ms = round(1000 * vad.min_silence_s), round(1000 * chunking.pad_before_s)
    same = VadOptions(vad.threshold, silence_ms / 1000)
    if vad != same or chunking != ChunkingOptions(pad_before_s=padding_ms / 1000):
        raise OptionError("such vad and chunking can be set over a handle only", "chunking")
    return {
        "chunking_strategy[type]": "server_vad",
        "chunking_strategy[threshold]": str(vad.threshold),
        "chunking_strategy[silence_duration_ms]": str(silence_ms),
        "chunking_strategy[prefix_padding_ms]": str(padding_ms),
    }


def _transcript(body: dict[str, Any]) -> Transcript:
    account, words = body["murmur"], deque(body.get("words") or ())
    return Transcript(
        text=body["text"],
        language=language_code(body["language"]) or "",
        duration_s=body["duration"],
        task=body["task"],
        segments=tuple(
            TranscriptSegment(
                start_s=segment["start"],
                end_s=segment["end"],
                text=segment["text"],
                tokens=tuple(segment["tokens"]),
                temperature=segment["temperature"],
                avg_logprob=segment["avg_logprob"],
                compression_ratio=segment["compression_ratio"],
                no_speech_prob=segment["no_speech_prob"],
                model=model,
                words=tuple(_words_in(segment["text"], words)),
                language=segment["language"],
            )
            for segment, model in zip(body["segments"], account["segment_models"], strict=True)
        ),
        warnings=tuple(
            AudioWarning(warning["code"], warning["message"], warning["start"], warning["end"])
            for warning in body.get("warnings", ())
        ),
        audio=AudioInfo(**audio) if (audio := account["audio"]) else None,
        languages=tuple(dict.fromkeys(segment["language"] for segment in body["segments"])),
    )


def _segments(event: dict[str, Any], options: TranscribeOptions) -> Iterator[TranscriptSegment]:
    if "error" in event:
        error = event["error"]
        raise ServerError(200, error["message"], error["param"], error["code"])
    if event["type"] == "transcript.text.segment":
        start_s, end_s = event["start"], event["end"]
        nan = float("nan")
        text, words = event["text"], tuple(_words_in(event["text"], deque(event.get("words", ()))))
        yield TranscriptSegment(
            start_s, end_s, text, (), nan, nan, nan, nan, options.model, words=words
        )


def _words_in(text: str, words: deque[dict[str, Any]]) -> Iterator[Word]:
    """Take the words of a segment, and give them the blanks that they have in its text."""
    at = 0
    while words and (found := text.find(words[0]["word"], at)) >= 0:
        word = words.popleft()
        end = found + len(word["word"])
        yield Word(word["start"], word["end"], text[at:end], word["probability"])
        at = end


def _server_error(status: int, body: str) -> ServerError:
    try:
        error = json.loads(body)["error"]
        return ServerError(status, error["message"], error["param"], error["code"])
    except (ValueError, KeyError, TypeError):  # the answer comes from a proxy, not from Murmur
        return ServerError(status, body.strip()[:200] or "no answer", None, None)
