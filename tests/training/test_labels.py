"""Labels: what is given, what is learnt, and where times go."""

import pytest

from engine import Checkpoint
from training.errors import TrainingError
from training.labels import IGNORED, clip_tokens, labelled
from training.manifest import Span
from training.recordings import Clip

SPANS = [Span(0.0, 1.5, "Hello."), Span(2.004, 29.999, "There!")]


def test_an_english_model_with_times(checkpoints: dict[str, Checkpoint]) -> None:
    tokenizer = checkpoints["demo:tiny.en"].tokenizer
    made = labelled(tokenizer, "en", SPANS, timestamps=True, previous=None)
    zero = tokenizer.timestamp_begin
    hello, there = tokenizer.encode(" Hello."), tokenizer.encode(" There!")
    content = [zero, *hello, zero + 75, zero + 100, *there, zero + 1500]
    assert made.inputs == (tokenizer.sot, *content)
    assert made.labels == (*content, tokenizer.eot)


def test_start_sequence_and_previous_text_are_given(checkpoints: dict[str, Checkpoint]) -> None:
    tokenizer = checkpoints["demo:base"].tokenizer
    made = labelled(tokenizer, "es", SPANS[:1], timestamps=False, previous="Antes.")
    before = [tokenizer.sot_prev, *tokenizer.encode(" Antes.")]
    start = [tokenizer.sot, tokenizer.languages["es"], tokenizer.transcribe]
    start.append(tokenizer.no_timestamps)
    content = tokenizer.encode(" Hello.")
    assert made.inputs == (*before, *start, *content)
    n_given = len(before) + len(start)
    assert made.labels == (*[IGNORED] * (n_given - 1), *content, tokenizer.eot)


def test_a_long_previous_text_leaves_room(checkpoints: dict[str, Checkpoint]) -> None:
    tokenizer = checkpoints["demo:base"].tokenizer
    text = " ".join(["word"] * 110)
    spans = [Span(0.0, 20.0, text)]
    made = labelled(tokenizer, "en", spans, timestamps=True, previous=text * 20)
    assert len(made.inputs) == len(made.labels) <= 448
    assert made.labels[-1] == tokenizer.eot
    assert made.inputs.count(tokenizer.sot) == 1  # a second start token spoils the loss


def test_what_a_window_cannot_hold_is_refused(checkpoints: dict[str, Checkpoint]) -> None:
    tokenizer = checkpoints["demo:tiny.en"].tokenizer
    fine = Clip("m:1", 0, 16_000, "en", "Hello there.", (), None)
    long = Clip("m:2", 0, 16_000, "en", "word " * 300, (), None)
    foreign = Clip("m:3", 0, 16_000, "es", "Hola.", (), None)
    assert clip_tokens(tokenizer, [fine]) == [len(tokenizer.encode(" Hello there.")) + 2]
    with pytest.raises(TrainingError) as error:
        clip_tokens(tokenizer, [fine, long, foreign])
    first, second = str(error.value).splitlines()
    assert first.startswith("m:2: the text has ") and first.endswith("224 at most")
    assert second == "m:3: the model does not know the language 'es'"
