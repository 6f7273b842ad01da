"""Turns cases into rows: makes the input, sends it, and judges the answer."""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import CalledProcessError

import httpx2

from tests.field.answers import Answer
from tests.field.case import COMMAND_LINE, HTTP, CallCase, Case, FileCase, UnfitError, World
from tests.field.table import Row


def run(cases: Sequence[Case], world: World, ways: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each case and interface, as they are done."""
    for case in cases:
        if isinstance(case, CallCase):
            if case.way in ways:
                yield _called(case, world)
        elif HTTP in ways and HTTP in case.ways:
            yield _served(case, world)
    if COMMAND_LINE in ways:
        yield from _commanded([c for c in cases if isinstance(c, FileCase)], world)


def _called(case: CallCase, world: World) -> Row:
    began = time.monotonic()
    try:
        seen = case.call(world)
    except UnfitError as error:
        return Row(case.name, case.way, case.right, f"not tried: {error}", None)
    except (httpx2.HTTPError, OSError, subprocess.SubprocessError) as error:
        return _broken(case.name, case.way, case.right, error, began)
    taken_s = time.monotonic() - began
    return Row(case.name, case.way, case.right, seen.got, not seen.faults, seen.faults, taken_s)


def _served(case: FileCase, world: World) -> Row:
    began = time.monotonic()
    form = {"model": case.model, "response_format": "verbose_json", **case.fields, **case.form}
    try:
        path = _made(case, world)
        answer = world.served().transcribe(path, form)
        path.unlink()
    except (httpx2.HTTPError, OSError, subprocess.SubprocessError) as error:
        return _broken(case.name, HTTP, case.check.right, error, began)
    return _judged(case, HTTP, answer, time.monotonic() - began)


def _commanded(cases: Sequence[FileCase], world: World) -> Iterator[Row]:
    """Files with the same options share an engine, which takes seconds to load."""
    groups: dict[tuple[str, ...], list[FileCase]] = defaultdict(list)
    for case in cases:
        if COMMAND_LINE in case.ways:
            alone = (case.name,) if case.is_alone else ()
            groups[(*case.command_options(), *alone)].append(case)
    for together in groups.values():
        began = time.monotonic()
        try:
            paths = [_made(case, world) for case in together]
        except (OSError, CalledProcessError) as error:
            yield from (
                _broken(c.name, COMMAND_LINE, c.check.right, error, began) for c in together
            )
            continue
        answers = world.command_line.transcribe(paths, together[0].command_options())
        taken_s = (time.monotonic() - began) / len(together)
        for case, path in zip(together, paths, strict=True):
            path.unlink()
            yield _judged(case, COMMAND_LINE, answers[path], taken_s)


def _made(case: FileCase, world: World) -> Path:
    folder = world.folder / case.name.replace("/", "-")
    folder.mkdir(exist_ok=True)
    return case.make(folder)


def _judged(case: FileCase, way: str, answer: Answer, taken_s: float) -> Row:
    faults = tuple(dict.fromkeys(case.check.faults(answer)))
    return Row(case.name, way, case.check.right, answer.short(), not faults, faults, taken_s)


def _broken(name: str, way: str, right: str, error: Exception, began: float) -> Row:
    words = getattr(error, "stderr", None) or str(error)
    what = f"{type(error).__name__}: {words}".strip()
    print(what, file=sys.stderr)
    return Row(name, way, right, what[:160], False, (what[:160],), time.monotonic() - began)
