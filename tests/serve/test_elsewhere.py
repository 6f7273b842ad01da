"""Who types another tool's option learns what it is here."""

import re
from dataclasses import fields

import pytest

from serve.commands.arguments import TranscribeArguments
from serve.commands.cli import main
from serve.elsewhere import ELSEWHERE, of_command, of_field
from serve.http.fields import FieldError, TranscriptionFields, parse_fields


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--initial_prompt", "No such option: --initial-prompt; use --prompt, which goes with"),
        ("--initial-prompt", "use --prompt, which goes with every chunk"),
        ("--condition_on_previous_text", "use --context: 1 is without"),
        ("--vad_filter", "silence is never decoded"),
        ("--output_format", "use --format"),
    ],
)
def test_a_flag_of_another_tool(typed: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "a.wav", typed, "x"]) == 2
    assert says in capsys.readouterr().err


def test_flags_may_be_written_with_underscores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "a.wav", "--beam_size", "99"]) == 2
    assert "'--beam-size'" in capsys.readouterr().err


def test_a_field_of_another_server() -> None:
    with pytest.raises(FieldError, match="unknown field 'hotwords': use keywords") as caught:
        parse_fields([("model", "m"), ("hotwords", "Norland")], TranscriptionFields)
    assert (caught.value.param, caught.value.code) == ("hotwords", "unknown_parameter")


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_what_is_named_exists(name: str) -> None:
    """Every option that a hint names is one of ours, and no option of ours has a hint."""
    flags = {each.name.replace("_", "-") for each in fields(TranscribeArguments)}
    flag, field = of_command(name), of_field(name)
    assert flag is not None and field is not None
    assert "{" not in flag + field
    assert set(re.findall(r"--([a-z-]+)", flag)) <= flags
    assert name not in TranscriptionFields.model_fields
    assert name.replace("_", "-") not in flags


def test_an_option_that_nobody_knows_has_no_hint() -> None:
    assert of_command("--nonsense") is None and of_field("nonsense") is None
