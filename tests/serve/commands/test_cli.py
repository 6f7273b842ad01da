"""The `murmur` command itself: what it says of itself and of mistakes, and how it ends. No work is
done: the commands have their own tests."""

import errno
import json
import subprocess
import sys
from typing import get_args

import pytest

from engine import CrossAttentionMode, Offload, Precision
from engine.request import MAX_BOOST, MAX_TEXTS
from engine.weights.hub import DEMO_MODELS
from engine.weights.names import NAMES
from serve.commands import arguments, models
from serve.commands.cli import app, main
from serve.commands.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

PROGRAM = [sys.executable, "-m", "serve.commands.cli"]
COMMANDS = [str(c.name or getattr(c.callback, "__name__", "")) for c in app.registered_commands]


def test_lists_that_are_written_out_are_the_engines() -> None:
    """They are written out where help must be quick."""
    assert get_args(arguments.PrecisionName) == tuple(Precision)
    assert get_args(arguments.CrossAttentionName) == tuple(CrossAttentionMode)
    assert get_args(arguments.OffloadName) == tuple(Offload)
    assert sorted(arguments.MODEL_NAMES) == sorted([*NAMES, *DEMO_MODELS])
    assert arguments.MAX_TEXTS == MAX_TEXTS
    assert arguments.MAX_BOOST == MAX_BOOST


def test_alone_it_says_where_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == EXIT_OK
    out, err = capsys.readouterr()
    assert err == "" and len(out.splitlines()) < 10
    for words in ("murmur transcribe", "murmur up", "murmur plan", "murmur --help"):
        assert words in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == EXIT_OK
    name, version, *_ = capsys.readouterr().out.split()
    assert name == "murmur" and version[0].isdigit()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_and_has_words_for_everything(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == EXIT_OK
    page = capsys.readouterr().out
    assert page.startswith(f"Usage: murmur {command}")
    assert all(len(line) <= 80 for line in page.splitlines())


def test_a_command_is_explained_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == EXIT_OK
    page = capsys.readouterr().out
    assert all(f"\n  {command} " in page for command in COMMANDS)
    assert "..." not in page.partition("Commands:")[2], "a line that is cut"


def test_defaults_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    main(["transcribe", "--help"])
    page = " ".join(capsys.readouterr().out.split())
    for words in ("[default: tiny.en]", "(auto: detected in each file)", "(all cores)"):
        assert words in page


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["dance"], "No such command 'dance'; see murmur --help"),
        (["transcrib"], "Did you mean 'transcribe'?"),
        (["transcribe"], "Missing argument 'FILE'; see murmur transcribe --help"),
        (
            ["transcribe", "a", "--modle", "b"],
            "--modle (Possible options: --model)",
        ),
        (["transcribe", "a", "--format", "pdf"], "'pdf' is not one of 'txt', 'json'"),
        (["transcribe", "a", "--batch-size", "0"], "'--batch-size': Input should be greater"),
        (["transcribe", "a", "--temperature", "9"], "'--temperature': Input should be less"),
        (["transcribe", "a", "--context", "0"], "'--context': Input should be greater"),
        (["transcribe", "a", "--threads", "two"], "'--threads': Input should be a valid integer"),
        (["plan", "tiny", "--batch", "0"], "'--batch': Input should be greater"),
        (["watch-spot", "azure"], "'azure' is not one of 'aws', 'gcp'"),
        (["plan", "a", "b\nc"], "unexpected extra argument"),
    ],
)
def test_a_wrong_call_is_one_line(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("murmur: ") and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), EXIT_INTERRUPTED, ""),
        (BrokenPipeError(), EXIT_OK, ""),
        (OSError(errno.ENOSPC, "No space left on device"), EXIT_FAILED, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), EXIT_FAILED, "/x: Permission"),
    ],
)
def test_how_a_command_ends(
    error: BaseException,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(as_json: bool) -> int:
        raise error

    monkeypatch.setattr(models, "list_models", fail)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # which it may give up
    assert main(["models"]) == code
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == (1 if said else 0)


def test_a_reader_that_went_away_is_no_error() -> None:
    with subprocess.Popen(
        [*PROGRAM, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize("argument", ["--version", "dance"])
def test_closed_streams_are_no_error(argument: str) -> None:
    command = f'"$@" {argument} >&- 2>&-'
    done = subprocess.run(["sh", "-c", command, "sh", *PROGRAM], check=False)
    assert done.returncode == (0 if argument == "--version" else 2)


def test_help_and_version_load_nothing_large() -> None:
    code = """
import sys
from serve.commands.cli import main
for args in ([], ["--version"], ["--help"], ["transcribe", "--help"], ["transcribe", "--nothing"]):
    main(args)
loaded = {"torch", "ray", "transformers", "numpy", "yaml", "pydantic_settings"} & set(sys.modules)
print(sorted(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("murmur tr", ["transcribe"]),
        ("murmur transcribe --form", ["--format"]),
        ("murmur transcribe a.wav --format v", ["verbose_json", "vtt"]),
        ("murmur plan tur", ["turbo"]),
        ("murmur transcribe a.wav --model demo", ["demo:tiny.en", "demo:base"]),
        ("murmur transcribe talk", []),
    ],
)
def test_completion(
    line: str,
    offered: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As bash asks for it; nothing offered means files."""
    monkeypatch.setenv("_MURMUR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == offered


def test_models_lists_what_can_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["demo:base", "-", "installed"] in rows
    assert ["base", "openai/whisper-base", "installed,", "as", "demo:base"] in rows
    assert main(["models", "--json"]) == 0
    listed = {row["name"]: row["hub_id"] for row in json.loads(capsys.readouterr().out)}
    assert listed["turbo"] == "openai/whisper-large-v3-turbo"


def test_fetch_takes_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "-m", "tiny.en", "-m", "lage-v3"]) == EXIT_FAILED
    out, err = capsys.readouterr()
    assert out.startswith("tiny.en  /") and "closest first: large-v3," in err
