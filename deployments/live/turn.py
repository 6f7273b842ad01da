"""A turn: what OpenAI calls an item. Its text is that of its stretches, one after another."""

import codecs
from dataclasses import dataclass, field

from deployments.live.events import Completed, Delta
from deployments.live.stretch import Stretch, Text
from deployments.transcript.scripts import is_unspaced
from engine import SAMPLE_RATE, Word


@dataclass(eq=False, slots=True)
class Turn:
    """Attributes:
    start: its first sample in the session.
    stop: the sample behind its last; None: it is not committed.
    text: what was told of it.
    error: why it has no more text.
    """

    item_id: str
    start: int
    stop: int | None = None
    stretches: list[Stretch] = field(default_factory=list)
    text: str = ""
    error: Exception | None = None
    _told: Text = Text()
    _n_told: int = 0
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    @property
    def open_stretch(self) -> Stretch | None:
        """The stretch that goes on."""
        last = self.stretches[-1] if self.stretches else None
        return last if last is not None and last.stop is None else None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be said of it."""
        is_final = self.stop is not None and all(stretch.is_done for stretch in self.stretches)
        return is_final or self.error is not None

    def tell(self, stretch: Stretch, new: Text) -> list[Delta]:
        """What to say of new final text."""
        if not new:
            return []
        text = self._decoder.decode(stretch.text(new), final=stretch.is_done)
        if len(stretch.said) == len(new):  # the first text of its stretch
            text = self._joined(text)
        self._told += new
        self.text += text
        return [Delta(self.item_id, text, new.tokens, new.logprobs, stretch.new_words)]

    def completed(self) -> Completed:
        assert self.stop is not None
        words: list[Word] = [word for stretch in self.stretches for word in stretch.words]
        languages = [stretch.language for stretch in self.stretches if stretch.said]
        return Completed(
            item_id=self.item_id,
            text=self.text,
            start_s=self.start / SAMPLE_RATE,
            end_s=self.stop / SAMPLE_RATE,
            language=(languages[0] or "") if languages else "",
            words=tuple(words),
            tokens=self._told.tokens,
            logprobs=self._told.logprobs,
        )

    def _joined(self, text: str) -> str:
        """The text of a stretch with the blank before it that belongs there."""
        bare = text.lstrip(" ")
        if not self.text or not bare:
            return bare
        glued = is_unspaced(bare[0]) or is_unspaced(self.text[-1])
        return bare if glued or self.text.endswith(" ") else " " + bare
