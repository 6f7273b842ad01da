"""Signs of bad text hold alike in all scripts: the first article of the Universal Declaration of
Human Rights (United Nations, 1948), once and in a loop."""

import zlib

import pytest

from deployments.transcript.cascade import CascadeOptions, repeated_share
from deployments.transcript.coverage import CoverageOptions
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.scripts import letters, words
from engine.decoding.segments import compression_ratio

ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with "
    "reason and conscience and should act towards one another in a spirit of brotherhood.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены "
    "разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. "
    "Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με "
    "πνεύμα αδελφοσύνης.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن "
    "يعامل بعضهم بعضا بروح الإخاء.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"
    "人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 "
    "이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ "
    "ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। "
    "उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும், "
    "உரிமைகளிலும் சமமானவர்கள், அவர்கள் நியாயத்தையும் மனச்சாட்சியையும் இயற்பண்பாகப் பெற்றவர்கள். "
    "அவர்கள் ஒருவருடனொருவர் சகோதர உணர்வுப் பாங்கில் நடந்துகொள்ளல் வேண்டும்.",
}
LANGUAGES = sorted(ARTICLE)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_loop_compresses_and_correct_text_does_not(language: str) -> None:
    limit = FallbackOptions().max_compression_ratio
    once, loop = ARTICLE[language], " ".join([ARTICLE[language]] * 4)
    assert compression_ratio(once) < 0.75 * limit < limit < compression_ratio(loop)


def test_the_compression_of_ascii_is_that_of_openai_whisper() -> None:
    data = ARTICLE["en"].encode()
    assert compression_ratio(ARTICLE["en"]) == len(data) / len(zlib.compress(data))


def test_text_of_more_characters_than_there_are_bytes_has_a_ratio() -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    assert compression_ratio(many) < 1.5
    assert compression_ratio(many[:300] * 4) > 2.4


@pytest.mark.parametrize("language", LANGUAGES)
def test_repeated_words_are_seen_in_a_loop_alone(language: str) -> None:
    limit = CascadeOptions().max_repeated
    once = ARTICLE[language]
    assert repeated_share(once) < limit / 2
    assert repeated_share(" ".join([once] * 3)) > 2 * limit


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_said_has_as_many_letters(language: str) -> None:
    """A translation takes about as long to say as the English text."""
    ratio = letters(ARTICLE[language]) / letters(ARTICLE["en"])
    assert 0.75 < ratio < 1.45


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_that_covers_its_speech_is_told_from_half_of_it(language: str) -> None:
    """An article takes about 11 s; if one sentence of two is missing, words are missing."""
    options, text = CoverageOptions(), ARTICLE[language]
    assert not options.is_thin(text, 11.0)
    assert options.is_thin(text[: len(text) // 3], 11.0)


def test_digits_are_read_out() -> None:
    assert letters(" ill-disposed, 42.") == 11 + 8
    assert letters("\u0967\u0968") == letters("12") == 8
    assert letters("\u4f60\u597d\u3002") == 6


def test_words_where_there_are_spaces_and_where_there_are_none() -> None:
    assert words("Ill-disposed, 42!") == ["ill", "disposed", "42"]
    assert words("用 Ray 服务") == ["用", "ray", "服", "务"]
    assert words("नमस्ते दुनिया।") == ["नमस्ते", "दुनिया"]
    assert words("ได้ยิน") == list("ได้ยิน")
