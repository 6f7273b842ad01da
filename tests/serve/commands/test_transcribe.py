"""`murmur transcribe` on real speech and on bad input, with real weights."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from deployments.tier import TierInfo
from deployments.transcript.options import transcription_options
from engine.weights import hub
from serve.commands.arguments import TranscribeArguments
from serve.commands.cli import main
from serve.commands.transcribe import asked_options, engine_config
from tests.conftest import DATA

CLIP = DATA / "librivox-0870.wav"
SPOKEN = "then leisure to consider how much there might be prudently in his power"


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, list[dict]]:
    """Run `murmur transcribe` in this process: exit code, standard output, events."""
    code = main(["transcribe", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, [json.loads(line) for line in err.splitlines()]


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """Run what must be refused before any work: the one line said."""
    assert main(["transcribe", *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1, err
    return err


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z\s]", "", text.lower()).split())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad files, all made from one clip."""
    folder = tmp_path_factory.mktemp("inputs")
    pcm, rate = soundfile.read(CLIP, dtype="int16")
    narrow = pcm[::2]
    soundfile.write(folder / "8k-stereo.wav", np.stack([narrow, narrow], 1), 8_000)
    soundfile.write(folder / "24-bit.wav", pcm.astype(np.int32) << 16, rate, subtype="PCM_24")
    soundfile.write(folder / "tiny.wav", pcm[: rate // 20], rate)
    (folder / "empty.wav").touch()
    (folder / "text.mp3").write_text("This is no audio at all. " * 100)
    whole = CLIP.read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    header = bytearray(whole[:1_000])
    # 100 hours at 8 kHz and 8 bit fit the header's 32 bits; at 16 kHz and 16 bit they do not.
    at = header.index(b"fmt ") + 8
    header[at : at + 16] = struct.pack("<HHIIHH", 1, 1, 8_000, 8_000, 1, 8)
    at = header.index(b"data") + 4
    header[at : at + 4] = struct.pack("<I", 100 * 3_600 * 8_000)
    (folder / "100-hours.wav").write_bytes(header)
    (folder / "folder.wav").mkdir()
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    video = ["-f", "lavfi", "-i", "color=size=64x64:rate=5:duration=7"]
    subprocess.run([*ffmpeg, *video, "-i", CLIP, "-shortest", folder / "video.mp4"], check=True)
    return folder


def test_every_bad_file_is_named_and_the_others_finish(
    inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        "empty.wav": "empty",
        "text.mp3": "not audio",
        "tiny.wav": "0.1",
        "folder.wav": "it is a folder",
        "missing.wav": "No such file",
    }
    good = ["8k-stereo.wav", "24-bit.wav", "video.mp4"]
    cut = ["truncated.wav", "100-hours.wav"]
    names = [*list(bad)[:3], *good, *cut, *list(bad)[3:]]
    code, out, events = run(capsys, *(inputs / name for name in names), CLIP)
    assert code == 2
    errors = {Path(e["file"]).name: e["reason"] for e in events if e["event"] == "error"}
    assert set(errors) == set(bad)
    for name, reason in errors.items():
        assert bad[name].lower() in reason.lower(), (name, reason)
        assert "\n" not in reason and "Traceback" not in reason
    done = {Path(e["file"]).name for e in events if e["event"] == "done"}
    assert done == {*good, *cut, CLIP.name}
    texts = dict(re.findall(r"==> .*/(\S+) <==\n((?:(?!==>).*\n)*)", out))
    for name in (*good, CLIP.name):
        assert SPOKEN in words(texts[name]), name
    assert "leisure" in texts["truncated.wav"], "what is there of a truncated file is transcribed"
    assert not {"empty.wav", "text.mp3", "missing.wav"} & set(texts)


def test_a_cut_file_is_told_by_the_exit_code_an_event_and_in_json(
    inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, events = run(capsys, inputs / "truncated.wav", "--format", "json")
    assert code == 3
    [told] = [event for event in events if event["event"] == "warning"]
    [written] = json.loads(out)["warnings"]
    assert written["code"] == told["code"] == "truncated"
    assert written["start"] == pytest.approx(3.55, abs=0.01)
    assert written["end"] == pytest.approx(7.1, abs=0.01)


@pytest.mark.parametrize(
    "output_format", ["txt", "json", "verbose_json", "srt", "vtt", "ass", "tsv", "ctm"]
)
def test_formats_on_standard_output(output_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Where a precision cuts its segments is its own; float32's are known.
    code, out, _ = run(capsys, CLIP, "--format", output_format, "--precision", "float32")
    assert code == 0
    if output_format == "ctm":
        assert [line.split()[4] for line in out.splitlines()][5:8] == ["then", "leisure", "to"]
    elif output_format == "ass":
        shown = [line.rpartition(",,")[2] for line in out.splitlines() if ",Default,," in line]
        assert SPOKEN in words(" ".join(shown).replace("\\N", " "))
    else:
        assert SPOKEN in words(out)
    if output_format == "json":
        assert json.loads(out).keys() == {"text", "duration", "languages"}
        assert json.loads(out)["languages"] == [{"code": "en"}]
    if output_format == "verbose_json":
        verbose = json.loads(out)
        assert verbose["language"] == "english" and verbose["duration"] == 7.1
        assert verbose["segments"][0]["end"] == pytest.approx(7.0, abs=0.2)
    if output_format == "srt":
        assert out.startswith("1\n00:00:00,")
    if output_format == "vtt":
        assert out.startswith("WEBVTT\n\n00:00:00.")
    if output_format == "ctm":
        assert re.fullmatch(r"librivox-0870 1 0\.3\d\d 0\.\d{3} And 0\.\d{4}", out.split("\n")[0])


def test_words_with_their_times(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, CLIP, "--format", "json", "--words")
    found = json.loads(out)["words"]
    assert code == 0 and " ".join(word["word"] for word in found) == json.loads(out)["text"]
    assert found[3]["word"] == "Dashwood" and found[3]["start"] == pytest.approx(0.95, abs=0.1)


def test_output_folder(tmp_path: Path, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made" / "here"
    same_stem = tmp_path / "librivox-0870.flac"
    pcm, rate = soundfile.read(CLIP, dtype="int16")
    soundfile.write(same_stem, pcm, rate)
    files = [CLIP, inputs / "video.mp4", inputs / "empty.wav", same_stem]
    exact = ("--precision", "float32")  # whose segments are known
    code, out, _ = run(capsys, *files, "--output-dir", folder, "--format", "srt", *exact)
    assert code == 2 and out == ""
    assert {p.name for p in folder.iterdir()} == {
        "librivox-0870.wav.srt",
        "librivox-0870.flac.srt",
        "video.srt",
    }
    assert SPOKEN in words((folder / "video.srt").read_text())


def test_a_language_by_name_and_its_translation(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--model", "demo:base", "--language", "English", "--task", "translate")
    code, out, events = run(capsys, CLIP, *args)
    assert code == 0 and SPOKEN in words(out)
    assert events[-1]["language"] == "en"


def test_language_is_detected(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--model", "base", "--precision", "bfloat16", "--language", "auto")
    code, _, events = run(capsys, CLIP, *args)
    assert code == 0 and events[-1]["language"] == "en"


def test_keywords_are_expected(capsys: pytest.CaptureFixture[str]) -> None:
    """Words that are heard wrongly without."""
    args = (DATA / "librivox-0880.wav", "--precision", "float32")
    assert "ill-disposed" not in run(capsys, *args)[1]
    assert "ill-disposed" in run(capsys, *args, "--keywords", "ill-disposed,Norland")[1]
    # Alone, the prompt has no room for it.
    many = ",".join(f"Barton{n}" for n in range(200)) + ",ill-disposed :9"
    assert "ill-disposed" in run(capsys, *args, "--keywords", many)[1]


@pytest.mark.parametrize(
    ("given", "language", "languages"),
    [
        ({}, None, ()),
        ({"language": ["auto"]}, None, ()),
        ({"language": ["es,Auto"]}, None, ()),
        ({"language": ["German"]}, "de", ()),
        ({"language": ["en,german"]}, None, ("en", "de")),
        ({"language": ["en", " es , en,"]}, None, ("en", "es")),
    ],
)
def test_languages_are_given_in_any_way(
    given: dict[str, Any], language: str | None, languages: tuple[str, ...]
) -> None:
    info = TierInfo("m", "float32", ("en", "de", "es"), True, 8)
    asked = asked_options(TranscribeArguments(files=["a"], **given))
    decoding = transcription_options(asked, info).decoding
    assert (decoding.language, decoding.languages) == (language, languages)


def test_what_is_asked_of_every_chunk() -> None:
    given = TranscribeArguments(
        files=["a"], keywords=["Norland, Dashwood", "Norland"], prompt="A novel.", vad_threshold=0.3
    )
    options = transcription_options(
        asked_options(given), TierInfo("m", "float32", ("en",), False, 8)
    )
    assert options.decoding.prompt == "A novel."
    assert options.decoding.keywords == ("Norland", "Dashwood")
    assert options.vad.threshold == 0.3


def test_beam_search_is_asked_of_every_chunk(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--beam-size", "3", "--patience", "1.5", "--length-penalty", "1", "--best-of", "2")
    code, out, _ = run(capsys, CLIP, *options)
    assert code == 0 and SPOKEN in words(out)
    said = refused(capsys, CLIP, "--beam-size", "5", "--batch-size", "4")
    assert "beam_size is 5, and the model 'tiny.en' follows 4 texts" in said


@pytest.mark.parametrize(
    ("given", "n_slots"),
    [
        ({}, 24),
        ({"beam_size": "auto"}, 40),
        ({"beam_size": "2"}, 24),
        ({"beam_size": "5"}, 40),
        ({"beam_size": "5", "temperature": 0.5}, 24),
        ({"best_of": 4, "temperature": 0.5}, 32),
        ({"beam_size": "16"}, 40),
        ({"beam_size": "5", "batch_size": 10}, 10),
    ],
)
def test_texts_of_a_chunk_get_more_places(given: dict[str, Any], n_slots: int) -> None:
    arguments = TranscribeArguments(files=["a"], device="cpu", **given)
    assert engine_config(arguments).max_slots == n_slots


def test_what_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "unknown model 'nothing'" in refused(capsys, CLIP, "--model", "nothing")
    assert "unsupported language 'xx'" in refused(
        capsys, CLIP, "--model", "demo:base", "--language", "xx"
    )
    assert "unsupported language 'es'" in refused(capsys, CLIP, "--language", "es")
    assert "no translation" in refused(capsys, CLIP, "--task", "translate")
    assert "threshold must be between 0 and 1" in refused(capsys, CLIP, "--vad-threshold", "1")
    assert "device 'cuda:77'" in refused(capsys, CLIP, "--device", "cuda:77")
    assert "0.01 to 2" in refused(capsys, CLIP, "--temperature", "1e-40")
    said = refused(capsys, CLIP, "--batch-size", "100000000")
    assert "with 100000000 slots on a CPU needs" in said and "it fits with batch_size=" in said
    assert "device 'meta'" in refused(capsys, CLIP, "--device", "meta")
    assert "not valid Unicode" in refused(capsys, CLIP, "--prompt", "\udcff")
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    said = refused(capsys, CLIP, "--output-dir", in_the_way / "sub")
    assert str(in_the_way) in said and "cannot write" in said
    wrong = replace(hub.DEMO_MODELS["demo:tiny.en"], sha256="0" * 64)
    monkeypatch.setitem(hub.DEMO_MODELS, "demo:tiny.en", wrong)
    monkeypatch.setenv("MURMUR_CACHE", str(tmp_path / "cache"))
    assert "demo:tiny.en: wrong hash" in refused(capsys, CLIP)


def test_as_a_program_with_standard_input() -> None:
    """One real process: what a shell sees, errors as JSON lines in any encoding, stdin as a
    file."""
    command = [sys.executable, "-m", "serve.commands.cli", "transcribe", "-", "nöwhere.wav"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with CLIP.open("rb") as stdin:
        done = subprocess.run(
            command, stdin=stdin, capture_output=True, text=True, check=False, env=ascii_only
        )
    assert done.returncode == 2 and SPOKEN in words(done.stdout)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [e["event"] for e in events if e["file"] == "nöwhere.wav"] == ["error"]
    assert [e["event"] for e in events if e["file"] == "-"] == ["progress", "done"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])  # with a buffer, its end is written at exit
def test_a_full_disk_is_one_line(unbuffered: str) -> None:
    command = [sys.executable, "-m", "serve.commands.cli", "transcribe", str(CLIP)]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=env
        )
    assert done.returncode == 2
    assert done.stderr == "murmur: cannot write the transcripts: No space left on device\n"


def test_an_interrupt_ends_it_without_a_word() -> None:
    command = [sys.executable, "-m", "serve.commands.cli", "transcribe", "-"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)

    def listen() -> None:  # a shell's background job has it ignored, and hands that on
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, **pipes, preexec_fn=listen) as process:
        assert process.stdin is not None
        process.stdin.write(bytes(1_000_000))  # more than a pipe holds: it is being read
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


def test_the_language_alone(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(CLIP), str(inputs / "empty.wav")]
    assert main(["detect", *files]) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"{re.escape(str(CLIP))}\ten\t(1\.00|0\.9\d)\n", out)
    assert "empty.wav" in err
    assert main(["detect", str(CLIP), "--json", "--language", "fr,de"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["probabilities"].keys() == {"fr", "de"} and found["duration"] == 7.1
    assert main(["detect", str(CLIP), "--model", "tiny.en"]) == 2
    assert "knows English alone" in capsys.readouterr().err
