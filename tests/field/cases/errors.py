"""Files that are no audio, or cannot be read at all, get one clear error in our own words."""

import io
import zipfile
from pathlib import Path

import numpy as np

from tests.field.audio import say
from tests.field.case import Case, FileCase
from tests.field.checks import Refused
from tests.field.media import cut, encode

_NIBBLES = np.random.default_rng(3).integers(0, 256, 24_000, np.uint8).tobytes()
"""Random bytes, which is what files of codecs without a header look like."""
_HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in</body></html>\n"
_PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n%%EOF\n"


def _zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("talk.txt", "words " * 2_000)
    return packed.getvalue()


def _row(name: str, content: bytes, says: str = "") -> Case:
    def make(folder: Path) -> Path:
        path = folder / f"a.{name}"
        path.write_bytes(content)
        return path

    return FileCase(f"no-audio/{name}", make, Refused(code="invalid_audio", says=says))


def _index_lost(folder: Path) -> Path:
    return cut(encode(folder / "a.m4a", say("C", 1.0, "D"), "-b:a", "64k"))


CASES: list[Case] = [
    _row("pdf", _PDF * 20, "PDF"),
    _row("html", _HTML * 20, "HTML|web page"),
    _row("zip", _zip(), "zip|archive"),
    _row("shn", b"ajkg\x02" + _NIBBLES, "Shorten"),
    _row("g729", _NIBBLES[:8_000]),
    _row("vox", _NIBBLES),
    _row("txt", b"These are words and no sound. " * 200),
    _row("wav", b"", "empty|0 bytes|nothing"),
    FileCase("no-audio/m4a cut before its index", _index_lost, Refused(says="index|end|cut|trunc")),
]
