"""`murmur live`: text while somebody speaks, from a file at its own pace or from a microphone."""

import queue
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from deployments.audio.live_source import device_blocks, file_blocks
from deployments.errors import DeploymentError
from deployments.live.events import Completed, Delta, Event, Failed
from deployments.live.local_run import LocalLive
from deployments.live.options import LiveOptions, PolicyName
from deployments.live.session import LiveSession
from deployments.transcript.options import transcription_options
from engine import SAMPLE_RATE, Engine, EngineConfig, EngineError, default_precision
from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from serve.commands.progress import json_line
from serve.commands.transcribe import info_of

_N_SLOTS = 4
_WAIT_S = 0.05

Pcm = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class LiveArguments:
    """What the command line asks for.

    Attributes:
        file: a path; None: the device.
        device_format: ffmpeg's name of the kind of device.
        speed: of a file, as a multiple of real time; None: as fast as it is transcribed.
        url: of a server; None: the model runs in this process.
    """

    file: str | None
    device: str
    device_format: str | None
    speed: float | None
    model: str
    languages: tuple[str, ...]
    prompt: str | None
    keywords: tuple[str, ...]
    policy: PolicyName
    delay: str
    as_json: bool
    url: str | None
    api_key: str | None


def live(args: LiveArguments) -> int:
    """Run the command; returns the exit code."""
    try:
        options = LiveOptions(
            model=args.model,
            languages=args.languages,
            prompt=args.prompt,
            keywords=args.keywords,
            rate=SAMPLE_RATE,
            policy=args.policy,
            delay=args.delay,
        )
        blocks = _blocks(args)
        events = _remote(args, options, blocks) if args.url else _local(args, options, blocks)
        return _show(events, _printer(args.as_json))
    except (DeploymentError, EngineError, ValueError) as error:
        print(f"murmur: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _blocks(args: LiveArguments) -> Iterator[Pcm]:
    if args.file is None:
        return device_blocks(args.device, args.device_format)
    return file_blocks(args.file, args.speed)


def _remote(args: LiveArguments, options: LiveOptions, blocks: Iterable[Pcm]) -> Iterator[Event]:
    from serve.client import connect

    assert args.url is not None
    with connect(args.url, args.api_key) as client:
        yield from client.live(blocks, options)


def _local(args: LiveArguments, options: LiveOptions, blocks: Iterable[Pcm]) -> Iterator[Event]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = default_precision(torch.device(device))
    engine = Engine.load(options.model, EngineConfig(device, precision, max_slots=_N_SLOTS))
    wanted = transcription_options(options.transcribe_options(), info_of(options.model, engine))
    runner = LocalLive(engine, in_real_time=args.file is None or args.speed is not None)
    session = LiveSession("live", options.session_options(wanted.decoding), runner.model)
    return _drive(runner, session, blocks)


def _drive(runner: LocalLive, session: LiveSession, blocks: Iterable[Pcm]) -> Iterator[Event]:
    """Hear audio, which a thread reads, and look at it between two blocks."""
    waiting: queue.Queue[Pcm | BaseException | None] = queue.Queue(maxsize=600)
    threading.Thread(target=_read, args=(blocks, waiting), daemon=True).start()
    ended = False
    while not (ended and session.is_idle):
        # Without real time, audio comes as fast as it is looked at.
        while not ended and (block := _next(waiting, wait=not runner.is_busy)) is not None:
            if isinstance(block, _End):
                ended = True
                yield from session.finish()
                break
            yield from session.append(block)
            if session.lag_s > 1.0:
                break
        yield from (event for _, event in runner.step([session]))


class _End:
    """Stands for the end of the audio."""


def _next(waiting: "queue.Queue[Pcm | BaseException | None]", wait: bool) -> "Pcm | _End | None":
    try:
        block = waiting.get(timeout=_WAIT_S) if wait else waiting.get_nowait()
    except queue.Empty:
        return None
    if isinstance(block, BaseException):
        raise block
    return _End() if block is None else block


def _read(blocks: Iterable[Pcm], waiting: "queue.Queue[Pcm | BaseException | None]") -> None:
    try:
        for block in blocks:
            waiting.put(block)
    except BaseException as error:  # raised where the audio is heard
        waiting.put(error)
    else:
        waiting.put(None)


class _Lines:
    """Completed turns, a line each; on a terminal the turn that goes on stands in the last line."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty()
        self._turns: dict[str, str] = {}

    def show(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._turns[event.item_id] = self._turns.get(event.item_id, "") + event.text
            self._show_open()
        elif isinstance(event, Completed):
            self._turns.pop(event.item_id, None)
            if event.text:
                self._clear()
                print(event.text, flush=True)
            self._show_open()
        elif isinstance(event, Failed):
            self._turns.pop(event.item_id, None)
            self._clear()
            print(f"murmur: {event.error}", file=sys.stderr)

    def _show_open(self) -> None:
        if self._in_place:
            text = " ".join(text.strip() for text in self._turns.values())
            width = shutil.get_terminal_size().columns - 1
            self._clear()
            print(text[-width:], end="", flush=True)

    def _clear(self) -> None:
        if self._in_place:
            print("\r\x1b[2K", end="")


class _JsonLines:
    """Each event as a line of JSON."""

    def show(self, event: Event) -> None:
        fields: dict[str, Any] = asdict(event)
        if isinstance(event, Failed):
            fields["error"] = str(event.error)
        print(json_line({"type": type(event).__name__, **fields}, sys.stdout), flush=True)


def _printer(as_json: bool) -> _Lines | _JsonLines:
    return _JsonLines() if as_json else _Lines()


def _show(events: Iterable[Event], printer: _Lines | _JsonLines) -> int:
    code = EXIT_OK
    for event in events:
        if isinstance(event, Failed):
            code = EXIT_BAD_INPUT
        printer.show(event)
    return code
