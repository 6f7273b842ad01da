"""Says in one line of our own why a file is not readable audio: what it is, and what to do.

This is judged by the first bytes of a file that ffmpeg refused, and by what ffmpeg said about it.
ffmpeg's own messages speak of its internals, so they never get into an answer whole.
"""

import json
import re
from collections.abc import Iterable

HEAD_BYTES = 4_096
"""How much of a file `what_it_is` needs."""
_MAX_HINT_CHARS = 80

_SEND = "send the audio itself"
_CONVERT = "convert it to FLAC, WAV or MP3"
_IMAGE = f"it is an image: {_SEND}"
_ARCHIVE = "archive: unpack it and send the audio files in it"
_PLAYLIST = "it is a playlist, which only names files: send the files themselves"
_BASE64 = "it is audio as base64 text: decode it to bytes first"

# Regular expressions, matched from the first byte on.
_MAGICS = [
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), words)
    for pattern, words in (
        (rb"%PDF", f"it is a PDF document: {_SEND}"),
        (rb"PK[\3\5\7][\4\6\x08]", f"it is a ZIP {_ARCHIVE}"),
        (rb"\x1f\x8b|BZh|\xfd7zXZ\0|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", f"it is an {_ARCHIVE}"),
        (rb".{257}ustar", f"it is a tar {_ARCHIVE}"),
        (rb"\x89PNG|\xff\xd8\xff|GIF8|II\*\0|MM\0\*|RIFF....WEBP|BM....\0\0\0\0", _IMAGE),
        (rb"....ftyp(?:heic|heix|mif1|msf1|avif)|<svg|(?:<\?xml[^>]*>\s*)<svg", _IMAGE),
        (rb"ajkg", f"it is Shorten (.shn), which is not supported: {_CONVERT}"),
        (rb"OFR |LA0[234]", f"it is a lossless format that is not supported: {_CONVERT}"),
        (rb"\x02?#!SILK", f"it is Silk speech (.silk, .slk), which is not supported: {_CONVERT}"),
        (rb"\.RMF|\.ra\xfd", f"it is RealAudio, which is not supported: {_CONVERT}"),
        (rb"DSD |FRM8....", f"it is DSD audio, which is not supported: {_CONVERT}"),
        (rb"MThd", "it is MIDI, which holds notes and no sound"),
        (rb"\xd0\xcf\x11\xe0|\{\\rtf", f"it is an Office document: {_SEND}"),
        (rb"\x7fELF|MZ.{58}", "it is a program"),
        (rb"SQLite format 3", "it is a database"),
        (rb"version https://git-lfs", "it is a Git LFS pointer: fetch the file that it stands for"),
        (rb"(?:data:audio/|UklGR|SUQzB|SUQzA|T2dnUw|ZkxhQ|AAAA[A-Za-z0-9+/]{3}0eXB)", _BASE64),
        (rb"\s*(?:#EXTM3U|\[playlist\]|\[Reference\]|<asx|<smil|ffconcat|v=0\s+o=)", _PLAYLIST),
        (rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:playlist|MPD|smil|asx)\b", _PLAYLIST),
        (
            rb"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html|head|body)\b",
            "it is a web page (HTML), perhaps an error or a login of the site that it came from: "
            f"{_SEND}",
        ),
        (rb"\s*<\?xml|\s*<[a-z!]", f"it is an XML document: {_SEND}"),
    )
]  # fmt: skip

_COMPLAINTS = [
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        ("matches no streams", "it has no audio stream"),
        ("format not on whitelist", "its container format is not accepted"),
        (
            "moov atom not found",
            "the index of the file (moov) is missing, so that nothing in it can be decoded: its "
            "recording or its transfer ended early",
        ),
        (
            r"codec none|unknown codec|could not find codec parameters|decoder .*not found"
            r"|unsupported codec|no decoder",
            f"its audio codec is not known: {_CONVERT}",
        ),
        ("encrypt|drm|decryption", "its audio is encrypted: send it without copy protection"),
        ("channel change|number of channels", "its number of channels changes on the way"),
        ("sample rate change", "its sample rate changes on the way"),
        ("not yet implemented|patches welcome", f"its audio codec is not supported: {_CONVERT}"),
        ("cannot allocate|max_alloc", "it asks for more memory than a file may take"),
        (
            "invalid data found|unknown format|end of file|invalid argument",
            "its format is not known, or the file is damaged from its beginning",
        ),
    )
]
_SAYS_NOTHING = re.compile(r"^Error opening (input|output)|^Error while|^Conversion failed|^\s*$")
_INSIDES = re.compile(r"\[[^\]]*\]|0x[0-9a-f]+|[^\w\s.,%:()-]|\s-?\d{6,}\b", re.IGNORECASE)

ENCRYPTED = "its audio is encrypted (DRM): send it without copy protection"


def what_it_is(head: bytes) -> str | None:
    """What a file that is not audio is, by its first bytes; None if they do not tell."""
    plain = head.removeprefix(b"\xef\xbb\xbf")
    for pattern, words in _MAGICS:
        if pattern.match(plain):
            return words
    if not head.strip(b"\0"):
        return "it has nothing but zeros: the transfer or the disk lost its content"
    text = _text(plain)
    if text is None:
        return None
    return f"it is JSON: {_SEND}" if _is_json(text) else f"it is text: {_SEND}"


def in_our_words(complaints: Iterable[str]) -> str:
    """Sum up ffmpeg's complaints, given oldest first."""
    lines = list(complaints)
    text = "\n".join(lines)
    for pattern, words in _COMPLAINTS:
        if pattern.search(text):
            return words
    useful = [line for line in lines if not _SAYS_NOTHING.search(line)]
    hint = " ".join(_INSIDES.sub(" ", useful[0]).split())[:_MAX_HINT_CHARS] if useful else ""
    return f"it cannot be decoded ({hint})" if hint else "it cannot be decoded"


def _text(data: bytes) -> str | None:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4:  # more than a character cut off at the end of the head
            return None
        text = data[: error.start].decode(encoding)
    return text if len(text) > 1 and all(c.isprintable() or c.isspace() for c in text) else None


def _is_json(text: str) -> bool:
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except ValueError:
        return len(text) >= HEAD_BYTES - 4 or '"' in text
    return True
