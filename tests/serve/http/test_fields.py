"""Form fields: what they become, and what is said of wrong ones."""

from dataclasses import replace

import pytest

from deployments.errors import OptionError
from deployments.fleet import Priority, Quality
from deployments.options import ChunkingOptions, TranscribeOptions, VadOptions
from deployments.tier import TierInfo
from deployments.transcript.options import transcription_options
from serve.client import _fields
from serve.http.fields import FieldError, TranscriptionFields, TranslationFields, parse_fields

ENGLISH = TierInfo("m", "float32", ("en",), False, 8)
MANY = TierInfo("m", "float32", ("en", "de", "fr"), True, 8)


def parse(*items: tuple[str, str]) -> TranscriptionFields:
    return parse_fields([("model", "base"), *items], TranscriptionFields)


def test_defaults() -> None:
    assert parse().options() == TranscribeOptions(model="base")
    assert parse(("language", ""), ("prompt", "")).options() == TranscribeOptions(model="base")
    translation = parse_fields([("model", "base")], TranslationFields)
    assert translation.options() == TranscribeOptions(model="base", task="translate")


def test_every_field_arrives() -> None:
    fields = parse(
        ("languages[]", "de"),
        ("languages[]", "French"),
        ("keywords[]", "Dashwood"),
        ("prompt", "In the park."),
        ("temperature", "0.5"),
        ("context_chunks", "4"),
        ("chunking_strategy[type]", "server_vad"),
        ("chunking_strategy[threshold]", "0.4"),
        ("chunking_strategy[prefix_padding_ms]", "300"),
        ("chunking_strategy[silence_duration_ms]", "500"),
    )
    options = fields.options()
    assert options == TranscribeOptions(
        model="base",
        languages=("de", "French"),
        keywords=("Dashwood",),
        prompt="In the park.",
        temperature=0.5,
        context_chunks=4,
        vad=VadOptions(0.4, 0.5),
        chunking=ChunkingOptions(pad_before_s=0.3),
    )
    wanted = transcription_options(options, MANY)
    assert wanted.decoding.languages == ("de", "fr") and wanted.decoding.language is None
    assert wanted.decoding.keywords == ("Dashwood",) and wanted.decoding.prompt == "In the park."
    assert wanted.fallback.temperatures == (0.5,) and wanted.context_chunks == 4
    assert wanted.vad.threshold == 0.4 and wanted.vad.min_silence_s == 0.5


def test_the_clients_fields_are_the_same_options() -> None:
    options = TranscribeOptions(
        model="base",
        language="de",
        keywords=("a", "b"),
        temperature=0.3,
        vad=VadOptions(0.7),
        context_chunks=2,
        priority=Priority.BATCH,
        deadline_s=5.0,
    )
    items = []
    for name, value in _fields(options).items():
        items += [(name, item) for item in (value if isinstance(value, list) else [value])]
    assert parse_fields(items, TranscriptionFields).options() == options
    for lost in (
        TranscribeOptions(chunking=ChunkingOptions(max_chunk_s=10)),
        TranscribeOptions(vad=VadOptions(min_speech_s=0.5)),
    ):
        with pytest.raises(OptionError, match="over a handle only"):
            _fields(lost)


@pytest.mark.parametrize(
    ("items", "languages"),
    [
        ([("languages", "en,de , fr")], ("en", "de", "fr")),
        ([("languages[]", "en"), ("languages[]", "de")], ("en", "de")),
        ([("languages", '["en", "de"]'), ("languages[]", "fr")], ("en", "de", "fr")),
        ([("languages[0]", "en"), ("languages[1]", "de")], ("en", "de")),
        ([("languages[]", ""), ("languages", " , ")], ()),
        ([("languages", "[]")], ()),
    ],
)
def test_lists_in_each_form_that_clients_write(
    items: list[tuple[str, str]], languages: tuple[str, ...]
) -> None:
    assert parse(*items).options().languages == languages


@pytest.mark.parametrize(
    ("written", "keywords"),
    [
        (["Washington, D.C.", "Norland"], ("Washington", "D.C.", "Norland")),
        (['["Norland", "Sussex"]', "[laughter]"], ("Norland", "Sussex", "[laughter]")),
        (["a\nb, ,c", "b"], ("a", "b", "c")),
        ([f"{n:010d}" for n in range(5000)], tuple(f"{n:010d}" for n in range(5000))),
        (["Norland :2", "16:9", "C :"], ("Norland", "16:9", "C :")),
    ],
)
def test_keywords_are_parted_by_commas(written: list[str], keywords: tuple[str, ...]) -> None:
    options = parse(*[("keywords[]", word) for word in written]).options()
    assert transcription_options(options, MANY).decoding.keywords == keywords


def test_keywords_have_weights() -> None:
    wanted = parse(("keywords[]", "Norland :2,Sussex"), ("keywords[]", "Barton Park  :.5"))
    decoding = transcription_options(wanted.options(), MANY).decoding
    assert decoding.keywords == ("Norland", "Sussex", "Barton Park")
    assert decoding.keyword_weights == (2.0, 1.0, 0.5)
    assert decoding.keyword_boost == 1.0
    stronger = parse(("keywords[]", "Norland"), ("keyword_boost", "2.5"))
    assert transcription_options(stronger.options(), MANY).decoding.keyword_boost == 2.5


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (["Norland :11"], "a keyword's weight is 0 to 10, got 11"),
        (["x" * 1001], "a keyword has 1,001 characters; at most 1,000"),
        ([f"{n:010d}" for n in range(5001)], "keywords have 50,010 characters; at most 50,000"),
    ],
)
def test_keywords_beyond_their_limits_are_refused(keywords: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        transcription_options(TranscribeOptions(keywords=tuple(keywords)), MANY)
    assert caught.value.option == "keywords"


def test_a_boost_beyond_its_limits_is_refused() -> None:
    with pytest.raises(FieldError, match="keyword_boost"):
        parse(("keyword_boost", "11"))
    with pytest.raises(OptionError, match="between 0 and 10"):
        TranscribeOptions(keyword_boost=-1.0)


@pytest.mark.parametrize(
    ("written", "vad", "pad_before_s"),
    [
        ("auto", VadOptions(), 0.2),
        ("Server_VAD", VadOptions(), 0.2),
        ('{"type": "server_vad", "threshold": 0.25}', VadOptions(0.25), 0.2),
        (
            '{"type": "server_vad", "silence_duration_ms": 500, "prefix_padding_ms": 300,'
            ' "threshold": null}',
            VadOptions(min_silence_s=0.5),
            0.3,
        ),
    ],
)
def test_a_chunking_strategy_may_be_an_object_of_json(
    written: str, vad: VadOptions, pad_before_s: float
) -> None:
    options = parse(("chunking_strategy", written)).options()
    assert options.vad == vad and options.chunking == ChunkingOptions(pad_before_s=pad_before_s)


@pytest.mark.parametrize("value", ["True", "true", "1", "yes", "on", "TRUE"])
def test_yes_in_each_form(value: str) -> None:
    assert parse(("stream", value)).stream


def test_words_of_a_choice_in_any_case() -> None:
    fields = parse(
        ("response_format", "Verbose_JSON"),
        ("timestamp_granularities[]", "Segment"),
        ("quality", "BEST"),
        ("priority", "Batch"),
    )
    assert fields.response_format == "verbose_json"
    assert fields.timestamp_granularities == ["segment"]
    assert (fields.quality, fields.priority) == (Quality.BEST, Priority.BATCH)


@pytest.mark.parametrize(
    ("language", "languages", "known"),
    [
        ("pt_BR", (), ("pt", ())),
        ("auto", ("en-GB", "de", "en"), (None, ("en", "de"))),
        (None, ("en-US", "English"), ("en", ())),
        (None, ("en", "auto"), (None, ())),
        ("none", (), (None, ())),
    ],
)
def test_languages_as_locales_write_them(
    language: str | None, languages: tuple[str, ...], known: tuple[str | None, tuple[str, ...]]
) -> None:
    info = TierInfo("m", "float32", ("en", "de", "pt"), True, 8)
    asked = TranscribeOptions(language=language, languages=languages)
    decoding = transcription_options(asked, info).decoding
    assert (decoding.language, decoding.languages) == known


def test_a_prompt_is_cut_to_what_can_matter() -> None:
    wanted = transcription_options(TranscribeOptions(prompt="a" * 50_000 + " the end"), MANY)
    prompt = wanted.decoding.prompt
    assert prompt is not None and len(prompt) == 8_000 and prompt.endswith(" the end")


def test_how_texts_are_searched() -> None:
    items = [("model", "m"), ("beam_size", "5"), ("patience", "2"), ("length_penalty", "0.6")]
    asked = parse_fields([*items, ("best_of", "3")], TranscriptionFields).options()
    decoding = transcription_options(asked, replace(MANY, max_texts=5)).decoding
    assert (decoding.beam_size, decoding.patience, decoding.best_of) == (5, 2.0, 3)
    assert decoding.length_penalty == 0.6
    for value in ("0", "17", "many", "1.5"):
        with pytest.raises(FieldError, match="beam_size: give 1 to 16, or auto"):
            parse_fields([("model", "m"), ("beam_size", value)], TranscriptionFields)
    for name, value in (("patience", "0"), ("length_penalty", "2")):
        with pytest.raises(FieldError) as caught:
            parse_fields([("model", "m"), (name, value)], TranscriptionFields)
        assert caught.value.param == name


@pytest.mark.parametrize("said", ["auto", "AUTO"])
def test_beams_where_they_pay(said: str) -> None:
    asked = parse_fields([("model", "m"), ("beam_size", said)], TranscriptionFields).options()
    assert asked.beam_size == "auto"


def test_what_looks_made_up_can_be_left_out() -> None:
    items = [("model", "m"), ("hallucination_silence_threshold", "1.5")]
    asked = parse_fields(items, TranscriptionFields).options()
    assert asked.hallucination_silence_threshold == 1.5
    for value in ("-1", "nan", "inf"):
        with pytest.raises(FieldError) as caught:
            parse_fields([items[0], (items[1][0], value)], TranscriptionFields)
        assert caught.value.param == "hallucination_silence_threshold"
        with pytest.raises(OptionError, match="must not be negative"):
            TranscribeOptions(hallucination_silence_threshold=float(value))
    with pytest.raises(FieldError, match="hallucination_silence_threshold"):
        parse_fields(items, TranslationFields)


def test_several_languages_in_a_file() -> None:
    items = [("model", "m"), ("multilingual", "true"), ("languages", "en,de")]
    asked = replace(parse_fields(items, TranscriptionFields).options(), context_chunks=8)
    wanted = transcription_options(asked, MANY)
    assert wanted.multilingual and wanted.context_chunks == 1
    assert wanted.chunking.max_chunk_s == 12.0 and wanted.decoding.languages == ("en", "de")
    one = transcription_options(replace(asked, languages=("de",)), MANY)
    assert not one.multilingual and one.decoding.language == "de"
    assert not transcription_options(
        TranscribeOptions(multilingual=True), replace(MANY, languages=("en",), multilingual=False)
    ).multilingual
    with pytest.raises(OptionError, match="language or multilingual"):
        TranscribeOptions(language="en", multilingual=True)


def test_one_language_of_several_is_that_language() -> None:
    wanted = transcription_options(TranscribeOptions(languages=("German",)), MANY)
    assert wanted.decoding.language == "de" and wanted.decoding.languages == ()


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (TranscribeOptions(language="de"), "language"),
        (TranscribeOptions(languages=("en", "xx")), "languages"),
        (TranscribeOptions(task="translate"), "model"),
        (TranscribeOptions(prompt="\ud800"), "prompt"),
        (TranscribeOptions(keywords=("\ud800",)), "keywords"),
        (TranscribeOptions(language="zh-TW"), "language"),
        (TranscribeOptions(beam_size=5), "beam_size"),
        (TranscribeOptions(best_of=5), "best_of"),
    ],
)
def test_what_the_model_does_not_have(options: TranscribeOptions, option: str) -> None:
    with pytest.raises(OptionError) as caught:
        transcription_options(options, ENGLISH)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        (("model", "again"), "model", "invalid_value"),
        (("top_k", "1"), "top_k", "unknown_parameter"),
        (("chunking_strategy[depth]", "1"), "chunking_strategy", "invalid_value"),
        (("known_speaker_names[]", "A"), "known_speaker_names", "unsupported"),
        (("response_format", "diarized_json"), "response_format", "unsupported"),
        (("temperature", "nan"), "temperature", "invalid_value"),
        (("deadline_s", "inf"), "deadline_s", "invalid_value"),
        (
            ("chunking_strategy", '{"type": "server_vad", "threshold": 2}'),
            "chunking_strategy",
            "invalid_value",
        ),
        (("chunking_strategy", "{" * 60_000), "chunking_strategy", "invalid_value"),
        (("nope", ""), "nope", "unknown_parameter"),
    ],
)
def test_wrong_fields_are_named(item: tuple[str, str], param: str, code: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse(item)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_model_must_be_named() -> None:
    with pytest.raises(FieldError) as caught:
        parse_fields([], TranscriptionFields)
    assert caught.value.code == "missing_required_parameter"


@pytest.mark.parametrize(
    ("response_format", "words"),
    [("srt", True), ("vtt", True), ("json", False), ("verbose_json", False), ("text", False)],
)
def test_subtitles_need_words(response_format: str, words: bool) -> None:
    assert parse(("response_format", response_format)).options().words is words
