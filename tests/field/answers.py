"""Answers over HTTP and from the command line, in one shape."""

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
    """A warning about audio that could not be read; a time is None if the answer gives none."""

    code: str
    message: str
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        status: the HTTP status; from the command line 200 if the file was finished, else 422.
        exit_code: of the command, if the file was its only one.
        raw: the body, or what the command wrote for the file.
        stderr: of the command.
        told: the command's warnings about the file.
    """

    status: int
    raw: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    stderr: str = ""
    told: tuple[Warned, ...] = ()

    @cached_property
    def body(self) -> dict[str, Any]:
        """The body as JSON; empty if it is not a JSON object."""
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
        """OpenAI's error object, or one that has only the command's message."""
        if "error" in self.body:
            return dict(self.body["error"])
        return {"message": self.stderr} if self.status != 200 and self.stderr else {}

    @property
    def message(self) -> str:
        return str(self.error.get("message", ""))

    def short(self) -> str:
        """A summary for a table's cell."""
        if self.status != 200:
            return f"{self.status} {self.error.get('code', '')}: {self.message or self.raw}"[:160]
        cues = self.cues
        times = f" [{cues[0].start_s:g}-{cues[-1].end_s:g} s]" if cues else ""
        warned = "".join(f" ({w.code})" for w in self.warnings)
        text = self.text.strip()
        shown = text if len(text) <= 90 else f"{text[:50]} ... {text[-35:]}"
        return f'"{shown}"{times}{warned}'
