"""What clients call languages -> the codes of Whisper's vocabulary."""

import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from engine import ALL_LANGUAGES, language_code, language_name

NAMES = {
    "en": "en EN English english eng en-US en_US en-GB-oed en_US.UTF-8 | British English",
    "pt": "pt por pt-BR pt_BR PT-br | Portuguese (Brazil) | portuguese | Brazilian Portuguese",
    "zh": "中文 zh zh-TW zh_Hant zh-Hans-CN zh-CN cmn cmn_hans_cn chi zho zh-cmn-Hans zho_Hant | "
    "Mandarin | Chinese (Simplified) | Simplified Chinese",
    "yue": "yue yue-Hant-HK yue_hant_hk zh-yue Cantonese",
    "tl": "tl fil fil-PH fil_ph tgl Filipino Tagalog",
    "no": "no nb nb-NO nb_no nob nor no-NO | Norwegian | Norwegian Bokmål",
    "nn": "nn nn-NO nno Nynorsk | Norwegian Nynorsk",
    "he": "he iw iw-IL heb Hebrew",
    "id": "id in in_ID ind Indonesian",
    "yi": "yi ji yid ydd Yiddish",
    "jw": "jw jv jav jv-ID Javanese",
    "de": "Deutsch deutsch de deu ger de-CH German de_DE@euro",
    "fr": "français Francais fr fra fre fr-CA French | French (Canada)",
    "es": "español Español espanol es spa es-419 es_MX Spanish Castilian",
    "sr": "sr srp sr-Latn-RS sr_RS@latin sh",
    "ro": "ro mo ron rum Moldavian",
    "fa": "fa fas per pes fa_IR Farsi Persian prs",
    "ar": "ar ara arb ar-EG arz arb_Arab Arabic",
    "uz": "uz uzb uzn uz-Latn-UZ",
    "haw": "haw haw-US Hawaiian",
    "ht": "ht hat Haitian | Haitian Creole",
    "my": "my mya bur Burmese Myanmar",
    "sl": "sl slv Slovene Slovenian",
    "ru": "русский РУССКИЙ",
    "th": "ไทย",
    "hi": "हिन्दी",
    "ko": "한국어",
    "vi": "vi vi-VN | Tiếng Việt",
}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (name.strip(), code)
        for code, names in NAMES.items()
        for name in [*names.partition("|")[0].split(), *names.split("|")[1:]]
    ],
)
def test_a_language_by_each_of_its_names(name: str, code: str) -> None:
    assert language_code(name) == code
    assert language_code(f" {name.upper()} ") == code


@pytest.mark.parametrize("name", ["auto", "AUTO", "none", "None", "", "  ", "und", "null"])
def test_names_that_ask_for_a_detection(name: str) -> None:
    assert language_code(name) is None


@pytest.mark.parametrize(
    "name", ["xx", "xx-US", "klingon", "englisch", "english-us", "enx", "e", "en fr", "gsw", "nan"]
)
def test_what_is_no_language_of_whisper_stays_as_it_is(name: str) -> None:
    assert language_code(name) == name.casefold()


def test_every_code_and_name_is_its_own_language() -> None:
    """No other code or name may shadow one of Whisper's."""
    assert len(ALL_LANGUAGES) == 100
    for code in ALL_LANGUAGES:
        assert language_code(code) == code == language_code(language_name(code))


def test_they_are_those_of_transformers() -> None:
    assert {code: language_name(code) for code in ALL_LANGUAGES} == LANGUAGES
    assert ALL_LANGUAGES == tuple(LANGUAGES)
    assert {name: language_code(name) for name in TO_LANGUAGE_CODE} == TO_LANGUAGE_CODE
