"""What `murmur doctor` finds out: one line each."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """OK: as it should be. NOTE: it works, but something is slower or missing that one may want.
    FAULT: something that this machine is for does not work."""

    OK = "ok"
    NOTE = "note"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the thing, a word or two.
        found: what there is.
        mend: what mends it, a command where there is one; None if nothing has to be done.
    """

    name: str
    state: State
    found: str
    mend: str | None = None


def ok(name: str, found: str) -> Finding:
    return Finding(name, State.OK, found)


def note(name: str, found: str, mend: str) -> Finding:
    return Finding(name, State.NOTE, found, mend)


def fault(name: str, found: str, mend: str) -> Finding:
    return Finding(name, State.FAULT, found, mend)
