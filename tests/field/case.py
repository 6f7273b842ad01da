"""The kinds of cases from which the table's rows are made."""

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
    """The case cannot be tried here; the message says why."""


@dataclass(frozen=True)
class FileCase:
    """A file, the request for it, and the check of the answer.

    Args:
        name: `group/what`.
        make: writes the file into a folder and returns its path.
        check: judges the `verbose_json` answer.
        model: a tier; on the command line, the demo model of that name.
        fields: form fields that are also options of the command line, with the same names; no
            lists.
        form: further form fields, for HTTP only.
        ways: interfaces through which the case is tried.
        is_alone: whether the command line gets the file in a run of its own, so that its exit code
            shows.
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
    """What a call may use. `http` is None if HTTP is not tried, `server` if it is not our own."""

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
    """What a call has found: the result in words, and its faults."""

    got: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class CallCase:
    """Anything else that a client does, as a function that also judges the result."""

    name: str
    right: str
    call: Callable[[World], Seen]
    way: str = HTTP


Case = FileCase | CallCase


def asked(name: str, check: Check, ask: Callable[[World], Answer], way: str = HTTP) -> CallCase:
    """A case of a call whose answer a check judges."""

    def call(world: World) -> Seen:
        answer = ask(world)
        return Seen(answer.short(), tuple(check.faults(answer)))

    return CallCase(name, check.right, call, way)
