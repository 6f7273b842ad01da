"""What is no audio is told in words of our own: what it is, and what to do."""

import base64
import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deployments.audio.reading import read_audio
from deployments.audio.refusals import in_our_words
from deployments.errors import AudioError
from tests.support.media import run_ffmpeg

FFMPEGS_OWN = re.compile(
    r"0x[0-9a-f]+|@|\[|Invalid data|Error opening|avformat|avcodec|demux|av_|stream #|Decoder \(",
    re.IGNORECASE,
)


def refusal(content: bytes | Path) -> str:
    with pytest.raises(AudioError) as caught:
        list(read_audio(content))
    reason = caught.value.reason
    assert "\n" not in reason and len(reason) < 200
    assert not FFMPEGS_OWN.search(reason), reason
    return reason


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("talk.wav", b"RIFF")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("talk.wav"), io.BytesIO())
    return buffer.getvalue()


def wav(tag: int, n_bytes: int = 8_000) -> bytes:
    """A WAV of a codec that its tag tells."""
    fmt = struct.pack("<4sIHHIIHHH", b"fmt ", 18, tag, 1, 8_000, 1_000, 10, 0, 0)
    samples = np.random.default_rng(0).bytes(n_bytes)
    data = fmt + struct.pack("<4sI", b"data", n_bytes) + samples
    return struct.pack("<4sI4s", b"RIFF", len(data) + 4, b"WAVE") + data


def protected(path: Path, entry: bytes) -> bytes:
    """An MP4 whose track says that it is encrypted, as shops and DASH do."""
    run_ffmpeg("-f", "lavfi", "-t", "1", "-i", "sine", "-c:a", "aac", path)
    return path.read_bytes().replace(b"mp4a", entry, 1)


HTML = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not here</body></html>"
M3U8 = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.9,\nhttp://a.example/1.ts\n#EXT-X-ENDLIST\n"
KINDS: dict[str, tuple[bytes, str]] = {
    "html": (HTML, "web page (HTML)"),
    "html with blanks": (b"\xef\xbb\xbf \r\n" + HTML.lower(), "web page (HTML)"),
    "xhtml": (b'<?xml version="1.0"?>\n' + HTML, "web page (HTML)"),
    "json": (b'{"error": {"message": "no such file"}}', "it is JSON"),
    "json list": (json.dumps([{"text": "a" * 50}] * 300).encode(), "it is JSON"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
    "text": (b"Dear all,\n\nplease find the recording attached.\n", "it is text"),
    "text in UTF-16": ("Guten Tag, hier ist die Aufnahme".encode("utf-16"), "it is text"),
    "cut letter": (("Grüße aus Köln, " * 400).encode()[: 19 * 215 + 3], "it is text"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(200), "PDF"),
    "zip": (zipped(), "ZIP archive: unpack it"),
    "tar": (tarred(), "tar archive"),
    "gzip": (gzip.compress(b"RIFF" * 500), "archive: unpack it"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(1_000), "image"),
    "jpeg": (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(1_000), "image"),
    "gif": (b"GIF89a" + bytes(1_000), "image"),
    "heic": (struct.pack(">I", 24) + b"ftypheic" + bytes(1_000), "image"),
    "m3u8": (M3U8, "playlist"),
    "pls": (b"[playlist]\nFile1=http://a.example/x.mp3\n", "playlist"),
    "shorten": (b"ajkg\x02" + np.random.default_rng(0).bytes(5_000), "Shorten"),
    "silk": (b"\x02#!SILK_V3" + np.random.default_rng(0).bytes(5_000), "Silk"),
    "realaudio": (b".RMF\0\0\0\x12" + bytes(500), "RealAudio"),
    "midi": (b"MThd\0\0\0\x06\0\1\0\2\1\xe0MTrk" + bytes(100), "MIDI"),
    "office": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "Office"),
    "base64": (base64.b64encode(wav(1)), "base64"),
    "data url": (b"data:audio/wav;base64," + base64.b64encode(wav(1)), "base64"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    "program": (b"\x7fELF\2\1\1" + bytes(500), "program"),
    "zeros": (bytes(100_000), "nothing but zeros"),
    "g729 of a tag that nobody registered": (wav(0x0133), "codec is not known"),
    "codec none": (wav(0x7ABC), "codec is not known"),
    "vox": (np.random.default_rng(5).bytes(50_000), "format is not known"),
    "riff without anything": (b"RIFF\x24\0\0\0WAVE", ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_is(kind: str) -> None:
    content, words = KINDS[kind]
    reason = refusal(content)
    assert words in reason


@pytest.mark.parametrize("entry", [b"drms", b"enca"])
def test_protected_files(entry: bytes, tmp_path: Path) -> None:
    assert "copy protection" in refusal(protected(tmp_path / "x.m4a", entry))


def test_an_index_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    run_ffmpeg("-f", "lavfi", "-t", "5", "-i", "sine", "-c:a", "aac", path)
    data = path.read_bytes()
    assert "index" in refusal(data[: len(data) // 2])


def test_video_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    run_ffmpeg("-f", "lavfi", "-t", "1", "-i", "testsrc=size=64x64", path)
    assert "no audio stream" in refusal(path)


def test_what_ffmpeg_can_read_is_not_refused_for_its_looks(tmp_path: Path) -> None:
    """Magic bytes are looked at only behind a refusal: an MP3 may begin with anything."""
    path = tmp_path / "x.mp3"
    run_ffmpeg("-f", "lavfi", "-t", "1", "-i", "sine", "-id3v2_version", "0", path)
    assert sum(len(block) for block in read_audio(b"%PDF" + bytes(600) + path.read_bytes())) > 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("moov atom not found", "index of the file (moov) is missing"),
        ("Stream map '0:a:0' matches no streams.", "no audio stream"),
        ("Decoder (codec none) not found for input stream #0:0", "codec is not known"),
        ("[mov @ 0x55] Channel change at output frame", "channels changes"),
        ("Error while decoding: flux capacitor 0x7f32 [aac @ 0x1]", "it cannot be decoded"),
        ("flux capacitor @ 0x7f32aa: -1094995529", "it cannot be decoded (flux capacitor"),
    ],
)
def test_complaints(line: str, words: str) -> None:
    said = in_our_words(["Error opening input files", line])
    assert words in said
    assert not FFMPEGS_OWN.search(said)


def test_text_in_utf_16_that_ends_in_half_a_character() -> None:
    assert "it is text" in refusal("words, words".encode("utf-16") + b"\n")


def test_nothing_said() -> None:
    assert in_our_words([]) == "it cannot be decoded"
