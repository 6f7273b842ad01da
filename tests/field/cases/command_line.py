"""The `murmur` command itself."""

import re
import subprocess
from collections.abc import Callable

from tests.field.answers import Answer
from tests.field.audio import DATA, say
from tests.field.case import COMMAND_LINE, CallCase, Case, Seen, World
from tests.field.checks import Heard

_CLIP = DATA / "librivox-0870.wav"
_HEARD = Heard(say("C").said, times=False)
_Done = subprocess.CompletedProcess[str]


def _row(name: str, right: str, faults: Callable[[_Done], list[str]], *arguments: str) -> CallCase:
    def call(world: World) -> Seen:
        done = world.command_line.run(*arguments)
        return Seen(_short(done), tuple(faults(done)))

    return CallCase(f"command/{name}", right, call, COMMAND_LINE)


def _short(done: _Done) -> str:
    words = (done.stdout.strip() or done.stderr.strip()).splitlines() or [""]
    return f"exit {done.returncode}: {words[0] or words[-1]}"[:160]


def _prints(pattern: str) -> Callable[[_Done], list[str]]:
    def faults(done: _Done) -> list[str]:
        found = [] if done.returncode == 0 else [f"exit code {done.returncode}"]
        return found if re.search(pattern, done.stdout) else [*found, f"/{pattern}/ is not printed"]

    return faults


def _words(done: _Done) -> list[str]:
    found = [] if done.returncode == 0 else [f"exit code {done.returncode}"]
    return found + _HEARD.faults(Answer(200, done.stdout))


def _completion(world: World) -> Seen:
    """Ask for completion as bash does after `murmur tra<TAB>`."""
    asked = {"_MURMUR_COMPLETE": "complete_bash", "COMP_WORDS": "murmur tra", "COMP_CWORD": "1"}
    line = world.command_line
    done = subprocess.run(
        [line.murmur],
        cwd=line.folder,
        env={**line.environment, **asked},
        capture_output=True,
        text=True,
        timeout=60,
    )
    is_right = done.stdout.split() == ["transcribe"]
    return Seen(_short(done), () if is_right else ("`transcribe` is not offered",))


def _plan(model: str) -> CallCase:
    right = "exit 0, a table with the GPU"
    return _row(f"plan {model}", right, _prints(r"\|\s*L4\s*\|"), "plan", model, "--gpu", "L4")


_TRANSCRIBE = ("transcribe", "--model")

CASES: list[Case] = [
    _row("--model tiny.en", "exit 0, the words", _words, *_TRANSCRIBE, "tiny.en", str(_CLIP)),
    _row(
        "--language en-US",
        "exit 0, the words",
        _words,
        *(*_TRANSCRIBE, "demo:tiny.en", "--language", "en-US", str(_CLIP)),
    ),
    _row("--version", "exit 0, a version", _prints(r"\d+\.\d+"), "--version"),
    _row("without arguments", "exit 0, help", _prints(r"\btranscribe\b")),
    CallCase("command/completion", "`murmur tra` is completed", _completion, COMMAND_LINE),
    *map(_plan, ("base", "turbo", "large-v3")),
]
