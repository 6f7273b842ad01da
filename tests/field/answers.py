"""An answer, over HTTP or from the command line, in one shape."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Cue:
    """A segment; times in seconds."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Warned:
    """What an answer says of audio that could not be read; None: no time is told."""

    code: str
    message: str
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP; 200 or 422 for a file that the command line did or did not finish.
        exit_code: of the command line, where the file was alone.
        raw: the body, or what the command wrote for the file.
        stderr: of the command line.
        told: the command's warnings of the file.
    """

    status: int
    raw: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    stderr: str = ""
    told: tuple[Warned, ...] = ()

    @cached_property
    def body(self) -> dict[str, Any]:
        """JSON; empty if it is none."""
        try:
            body = json.loads(self.raw)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    @property
    def is_over_http(self) -> bool:
        return bool(self.headers)

    @property
    def text(self) -> str:
        return str(self.body.get("text", self.raw if not self.body else ""))

    @property
    def cues(self) -> list[Cue]:
        segments = self.body.get("segments") or []
        return [Cue(s["start"], s["end"], s["text"]) for s in segments]

    @property
    def warnings(self) -> list[Warned]:
        listed = self.body.get("warnings") or []
        over_http = [Warned(w["code"], w["message"], w["start"], w["end"]) for w in listed]
        return over_http or list(self.told)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object, or one with the command's words alone."""
        if "error" in self.body:
            return dict(self.body["error"])
        return {"message": self.stderr} if self.status != 200 and self.stderr else {}

    @property
    def message(self) -> str:
        return str(self.error.get("message", ""))

    def short(self) -> str:
        """For a table's cell."""
        if self.status != 200:
            return f"{self.status} {self.error.get('code', '')}: {self.message or self.raw}"[:160]
        cues = self.cues
        times = f" [{cues[0].start_s:g}-{cues[-1].end_s:g} s]" if cues else ""
        warned = "".join(f" ({w.code})" for w in self.warnings)
        text = self.text.strip()
        shown = text if len(text) <= 90 else f"{text[:50]} ... {text[-35:]}"
        return f'"{shown}"{times}{warned}'
