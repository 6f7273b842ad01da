"""What a row of the table is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.field.answers import Answer
from tests.field.checks import Check
from tests.field.clients import CommandLine, Http
from tests.field.server import Server

HTTP = "HTTP"
COMMAND_LINE = "command line"
BOTH = (HTTP, COMMAND_LINE)
MODEL = "tiny.en"


class UnfitError(Exception):
    """The case cannot be tried here: why."""


@dataclass(frozen=True)
class FileCase:
    """A file, what is asked of it, and what is right.

    Args:
        name: `group/what`.
        make: writes the file into a folder and returns its path.
        check: of a `verbose_json` answer.
        model: a tier, and a demo model of that name on the command line.
        fields: of the form, and by the same names options of the command line; not lists.
        form: of the form alone.
        ways: over which it is tried.
        is_alone: whether the command line gets it in a run of its own, so that its exit code shows.
    """

    name: str
    make: Callable[[Path], Path]
    check: Check
    model: str = MODEL
    fields: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str | list[str]] = field(default_factory=dict)
    ways: tuple[str, ...] = BOTH
    is_alone: bool = False

    def command_options(self) -> tuple[str, ...]:
        named = (part for k, v in self.fields.items() for part in (f"--{k}", v))
        return ("--model", f"demo:{self.model}", *named)


@dataclass(frozen=True)
class World:
    """What a call may use. `http` and `server` are None where it is not asked for, or not ours."""

    folder: Path
    command_line: CommandLine
    http: Http | None
    server: Server | None

    def served(self) -> Http:
        if self.http is None:
            raise UnfitError("needs a server")
        return self.http

    def own_server(self) -> Server:
        if self.server is None:
            raise UnfitError("needs a server that this run has started")
        return self.server


@dataclass(frozen=True)
class Seen:
    """What a call has brought to light: in words, and what is wrong with it."""

    got: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class CallCase:
    """Anything else that a client does, as a function that judges, too."""

    name: str
    right: str
    call: Callable[[World], Seen]
    way: str = HTTP


Case = FileCase | CallCase


def asked(name: str, check: Check, ask: Callable[[World], Answer], way: str = HTTP) -> CallCase:
    """A call whose answer a check judges."""

    def call(world: World) -> Seen:
        answer = ask(world)
        return Seen(answer.short(), tuple(check.faults(answer)))

    return CallCase(name, check.right, call, way)
