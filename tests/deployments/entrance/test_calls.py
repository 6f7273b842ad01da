"""What a Ray job may give over a handle, and what it gets that has not this package."""

import asyncio
import pickle
from types import MappingProxyType
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from deployments.entrance.calls import answers_to, plain_error, read_options
from deployments.errors import (
    AudioNotFoundError,
    ChunkFailedError,
    DeadlineError,
    OptionError,
    OverloadedError,
    UnknownModelError,
)
from deployments.fleet import Priority, Quality
from deployments.messages import AudioInfo, AudioWarning, Transcript, TranscriptSegment
from deployments.options import ChunkingOptions, TranscribeOptions, VadOptions
from engine import RequestError

SEGMENT = TranscriptSegment(0.1, 1.0, "Hi.", (1, 2), 0.0, -0.2, 1.0, 0.01, "tiny.en")


class TestOptions:
    def test_a_mapping_is_what_the_class_is(self) -> None:
        given = {
            "model": "auto",
            "task": "translate",
            "languages": ["de", "fr"],
            "keywords": ("a", "b"),
            "temperature": 0,
            "quality": "best",
            "priority": "batch",
            "deadline_s": 5,
            "vad": {"threshold": 0.3},
            "chunking": {"max_chunk_s": 10.0},
        }
        assert read_options(MappingProxyType(given)) == TranscribeOptions(
            model="auto",
            task="translate",
            languages=("de", "fr"),
            keywords=("a", "b"),
            quality=Quality.BEST,
            priority=Priority.BATCH,
            deadline_s=5.0,
            vad=VadOptions(threshold=0.3),
            chunking=ChunkingOptions(max_chunk_s=10.0),
        )
        assert read_options({}) == read_options(None) == TranscribeOptions()

    @pytest.mark.parametrize(
        ("given", "option", "says"),
        [
            ({"modle": "tiny.en"}, "modle", "unknown option 'modle'"),
            ({"model": 5}, "model", "invalid model: should be a valid string, got 5"),
            ({"priority": "soon"}, "priority", "'realtime', 'interactive' or 'batch', got 'soon'"),
            ({"vad": {"treshold": 1}}, "vad.treshold", "unknown option"),
            ({"vad": {"threshold": 2}}, "vad", "threshold must be between 0 and 1, got 2"),
            ({"chunking": 5}, "chunking", "invalid chunking"),
            ({"keywords": "abc"}, "keywords", "invalid keywords"),
            ({"context_chunks": 1.5}, "context_chunks", "invalid context_chunks"),
            ({"caller": "me"}, "caller", "Ray worker ID"),
            ({3: "x"}, "3", "invalid 3"),
            (["tiny.en"], "options", "a mapping, not list"),
            # What the class itself refuses, in the same words.
            ({"temperature": 5}, "temperature", "temperature must be 0 or 0.01 to 1, got 5"),
            (
                {"task": "sing"},
                "task",
                "task must be one of transcribe, translate, detect_language, got 'sing'",
            ),
            ({"language": "en", "languages": ["en"]}, "languages", "either"),
        ],
    )
    def test_what_cannot_be_is_named(self, given: Any, option: str, says: str) -> None:
        with pytest.raises(OptionError) as caught:
            read_options(given)
        assert caught.value.option == option
        assert says in str(caught.value)

    def test_outside_of_a_cluster_nobody_is_the_caller(self) -> None:
        options = TranscribeOptions(model="base", priority=Priority.BATCH, caller="ab" * 28)
        got = pickle.loads(pickle.dumps(options))
        assert got == options
        assert got.caller is None, "who gave them before is not who calls now"


def builtin(value: Any) -> bool:
    """Whether all of a value is of Python's own types."""
    if isinstance(value, dict):
        return all(builtin(part) for pair in value.items() for part in pair)
    if type(value) in (list, tuple):
        return all(map(builtin, value))
    return type(value).__module__ == "builtins"


class TestAnswers:
    def test_they_are_of_the_kind_of_the_options(self) -> None:
        warning = AudioWarning("cut", "it is cut", 1.0, None)
        audio = AudioInfo(1, 1, 2)
        transcript = Transcript(
            "Hi.", "en", 1.0, "transcribe", (SEGMENT,), warnings=(warning,), audio=audio
        )
        for options in (None, TranscribeOptions()):
            assert answers_to(options).of(transcript) is transcript
        got = answers_to({}).of(transcript)
        assert type(got) is dict and builtin(got)
        assert got["text"] == "Hi." and got["segments"][0]["start_s"] == 0.1
        assert got["warnings"][0]["code"] == "cut" and got["audio"]["channels"] == 2

    @pytest.mark.parametrize(
        ("error", "kind", "code", "fields"),
        [
            (AudioNotFoundError("no such file"), ValueError, "audio_not_found", {}),
            (OptionError("no", "vad"), ValueError, "option", {"option": "vad"}),
            (UnknownModelError("x"), ValueError, "unknown_model", {"model": "x"}),
            (RequestError("no such language"), ValueError, "request", {}),
            (DeadlineError(5.0), TimeoutError, "deadline", {"deadline_s": 5.0}),
            (OverloadedError("full", 2.0), RuntimeError, "overloaded", {"retry_after_s": 2.0}),
            (ChunkFailedError(1.0, 2.0, 2), RuntimeError, "chunk_failed", {"end_s": 2.0}),
            (KeyError("x"), RuntimeError, "fault", {}),
        ],
    )
    def test_errors_are_pythons_own(
        self, error: Exception, kind: type, code: str, fields: dict[str, Any]
    ) -> None:
        from_replica = RayTaskError("f", "a traceback", error)  # type: ignore[no-untyped-call]
        for raised in (error, from_replica):
            plain = pickle.loads(pickle.dumps(plain_error(raised)))
            assert type(plain) is kind
            assert vars(plain)["code"] == code
            assert builtin(vars(plain)) and fields.items() <= vars(plain).items()
            assert str(error) in str(plain) and "traceback" not in str(plain)

    def test_only_those_who_ask_get_them(self) -> None:
        with pytest.raises(OptionError), answers_to(None).errors():
            raise OptionError("no", "vad")
        with pytest.raises(ValueError, match="no") as caught, answers_to({}).errors():
            raise OptionError("no", "vad")
        assert type(caught.value) is ValueError
        with pytest.raises(asyncio.CancelledError), answers_to({}).errors():
            raise asyncio.CancelledError
