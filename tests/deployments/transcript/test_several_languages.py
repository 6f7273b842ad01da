"""Several languages in a file, and the language alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.messages import Chunk, to_request
from deployments.options import TranscribeOptions
from deployments.tier import TierInfo
from deployments.transcript.options import TranscriptionOptions, transcription_options
from engine import SAMPLE_RATE, DecodingOptions
from tests.deployments.transcript.test_transcription import begin, result, whole


def test_each_chunk_may_be_in_another_language(speech: np.ndarray) -> None:
    transcription, chunks = begin(
        speech, detect=True, multilingual=True, decoding=DecodingOptions(languages=("en", "de"))
    )
    assert len(chunks) >= 4, "no chunk waits for a vote"
    assert all(c.options.language is None for c in chunks)
    assert all(c.options.languages == ("en", "de") for c in chunks)
    # What looks wrong is decoded again in the language that was detected.
    doubted = replace(whole(chunks[0], " eins"), language="de", avg_logprob=-2.0)
    (again,) = transcription.accept(doubted).chunks
    assert again.options.language == "de" and again.options.temperature > 0
    transcription.accept(replace(whole(again, " eins"), language="de"))
    for chunk in chunks[1:]:
        transcription.accept(replace(whole(chunk, " two"), language="en"))
    transcript = transcription.transcript()
    assert [s.language for s in transcript.segments] == ["de", *["en"] * (len(chunks) - 1)]
    assert transcript.languages == ("de", "en") and transcript.language == "en"


def test_the_end_of_a_chunk_may_be_in_another_language_than_its_beginning(
    speech: np.ndarray,
) -> None:
    transcription, chunks = begin(
        speech, detect=True, multilingual=True, decoding=DecodingOptions()
    )
    early = replace(result(chunks[0].key, (0.0, 2.0, " eins.")), language="de")
    (rest,) = transcription.accept(early).chunks
    assert rest.options.language is None


def test_the_language_alone_is_the_mean_of_the_first_chunks(speech: np.ndarray) -> None:
    transcription, chunks = begin(
        speech, detect=True, only_language=True, decoding=DecodingOptions()
    )
    told = [(("en", 0.9), ("de", 0.1)), (("de", 0.7), ("en", 0.3)), (("en", 0.6), ("de", 0.4))]
    for probabilities in told:
        (chunk,) = chunks
        assert chunk.options.task == "detect_language" and not transcription.done
        asked = replace(whole(chunk, ""), segments=(), language_probs=probabilities)
        chunks = transcription.accept(asked).chunks
    assert chunks == [] and transcription.done
    transcript = transcription.transcript()
    assert transcript.language == "en" and transcript.task == "detect_language"
    assert dict(transcript.language_probs) == pytest.approx({"en": 0.6, "de": 0.4})
    assert transcription.take([]) == []


def test_a_short_file_and_a_silent_one_are_asked_for_their_language(speech: np.ndarray) -> None:
    options: dict[str, Any] = {"detect": True, "only_language": True, "decoding": DecodingOptions()}
    transcription, (chunk,) = begin(speech[: 5 * SAMPLE_RATE], **options)
    transcription.accept(replace(whole(chunk, ""), language_probs=(("en", 1.0),)))
    assert transcription.done and transcription.transcript().language == "en"
    silent, none = begin(np.zeros(3 * SAMPLE_RATE, np.int16), **options)
    assert none == [] and silent.done
    assert (silent.transcript().language, silent.transcript().language_probs) == ("", ())


def test_several_languages_go_with_no_language_and_no_context() -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"decoding": DecodingOptions(language="en")},
        {"context_chunks": 2},
    )
    for wrong in wrongs:
        with pytest.raises(ValueError, match="multilingual"):
            TranscriptionOptions(multilingual=True, **wrong)


def test_the_language_alone_is_asked_for_whatever_else_is() -> None:
    info = TierInfo("m", "float32", ("en", "de"), True, 8, 8)
    asked = TranscribeOptions(task="detect_language", multilingual=True, languages=("de",))
    wanted = transcription_options(asked, info)
    assert wanted.only_language and not wanted.multilingual
    assert (wanted.decoding.language, wanted.decoding.languages) == (None, ("de",))


def test_a_request_knows_where_the_voice_is() -> None:
    chunk = Chunk("r", 0, np.zeros(10, np.int16), DecodingOptions(words=True), speech=((2, 5),))
    assert to_request(chunk).speech == ((2, 5),)
