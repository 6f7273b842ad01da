"""A stream of audio -> chunks of at most 30 s: cut in silence, packed full, nothing lost.

Speech regions are packed into a chunk until the next one would overflow it. The cut then goes to
the longest pause in the last part of the chunk. Pauses too long to keep are shortened, so a chunk
is a row of spans of the file; its clock maps its own seconds back to the file's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.audio.voice_network import FRAME_SAMPLES
from deployments.options import ChunkingOptions, VadOptions
from deployments.transcript.vad import (
    ProbabilityStream,
    Region,
    RegionDetector,
    SpeechProbabilities,
)
from engine import N_SAMPLES, SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk's audio, and where in the file it comes from.

    Attributes:
        pcm: int16 mono, shape (n_samples,).
        spans: the regions of the file that make it up, in order, without overlap.
        speech: the regions of speech in it, in the file's samples.
    """

    pcm: npt.NDArray[np.int16]
    spans: tuple[Region, ...]
    speech: tuple[Region, ...]

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / SAMPLE_RATE

    def file_time_s(self, time_s: float, is_end: bool = False) -> float:
        """A time of the chunk on the file's clock.

        At a joint of two spans a start belongs to the later span, an end to the earlier one. Times
        beyond the chunk are clamped to it.
        """
        offset = round(time_s * SAMPLE_RATE)
        for span in self.spans:
            if offset < span.length or (is_end and offset == span.length):
                return (span.start + max(offset, 0)) / SAMPLE_RATE
            offset -= span.length
        return self.spans[-1].end / SAMPLE_RATE

    def chunk_sample(self, file_sample: int) -> int:
        """The chunk's sample of a file's sample, or of the next one kept if it was cut out."""
        passed = 0
        for span in self.spans:
            if file_sample < span.end:
                return passed + max(0, file_sample - span.start)
            passed += span.length
        return passed

    def head(self, stop: int) -> "Piece":
        """The piece up to its own sample `stop`."""
        spans, passed = [], 0
        for span in self.spans:
            taken = min(stop - passed, span.length)
            if taken > 0:
                spans.append(Region(span.start, span.start + taken))
            passed += span.length
        last = spans[-1].end
        speech = [Region(r.start, min(r.end, last)) for r in self.speech if r.start < last]
        return Piece(self.pcm[:stop], tuple(spans), tuple(speech))

    def halves(self) -> list["Piece"]:
        """The piece in two, cut in the pause nearest its middle, or there if it has none. A half
        without speech is left out."""
        middle = len(self.pcm) // 2
        pauses = [
            self.chunk_sample((end.end + start.start) // 2)
            for end, start in zip(self.speech, self.speech[1:], strict=False)
        ]
        at = min(pauses, key=lambda pause: abs(pause - middle), default=middle)
        return [half for half in (self.head(at), self.tail(at)) if half.speech]

    def tail(self, start: int) -> "Piece":
        """The rest of the piece from its own sample `start` on."""
        spans, passed = [], 0
        for span in self.spans:
            skipped = min(max(start - passed, 0), span.length)
            if skipped < span.length:
                spans.append(Region(span.start + skipped, span.end))
            passed += span.length
        first = spans[0].start
        speech = [Region(max(r.start, first), r.end) for r in self.speech if r.end > first]
        return Piece(self.pcm[start:], tuple(spans), tuple(speech))


class Chunker:
    """Cuts one file's audio, block by block. Holds at most a minute or two of it.

    Args:
        probabilities: tells speech from silence; Silero's model unless given.
    """

    def __init__(
        self,
        options: ChunkingOptions | None = None,
        vad: VadOptions | None = None,
        probabilities: ProbabilityStream | None = None,
    ) -> None:
        self.options = options or ChunkingOptions()
        self._max = round(self.options.max_chunk_s * SAMPLE_RATE)
        self._max_padded = min(self._max + SAMPLE_RATE // 2, N_SAMPLES)
        self._before = round(self.options.pad_before_s * SAMPLE_RATE)
        self._after = round(self.options.pad_after_s * SAMPLE_RATE)
        self._max_pause = round(self.options.max_pause_s * SAMPLE_RATE)
        self._probabilities = probabilities or SpeechProbabilities()
        self._detector = RegionDetector(vad or VadOptions())
        self._buffer = _Buffer()
        self._regions: list[Region] = []
        self._last_cut = 0

    @property
    def n_samples(self) -> int:
        """Samples taken so far."""
        return self._buffer.end

    def push(self, pcm: npt.NDArray[np.int16]) -> Iterator[Piece]:
        """Take the next samples of the file; yields the chunks that they complete."""
        probabilities = self._probabilities.push(pcm)
        self._buffer.append(pcm, probabilities)
        # Frame by frame, so that the cuts do not depend on the size of the blocks.
        for frame in range(len(probabilities)):
            yield from self._take(self._detector.push(probabilities[frame : frame + 1]))
            yield from self._split_long_speech()
            yield from self._end_at_silence()
        self._buffer.drop_before(self._needed_from())

    def finish(self) -> Iterator[Piece]:
        """The end of the file; yields what is left."""
        probabilities = self._probabilities.finish()
        yield from self._take(self._detector.push(probabilities))
        yield from self._take(self._detector.finish(self.n_samples))
        if self._regions:
            yield self._cut(len(self._regions), self.n_samples)

    def _take(self, regions: Iterator[Region]) -> Iterator[Piece]:
        for region in regions:
            region = Region(region.start, min(region.end, self.n_samples))
            while self._regions and self._overflows(region):
                count = self._best_cut(region.start)
                following = [*self._regions, region][count].start
                yield self._cut(count, self._shared_end(self._regions[count - 1].end, following))
            self._regions.append(region)

    def _overflows(self, region: Region) -> bool:
        spans = self._spans([*self._regions, region], self._last_cut, region.end)
        return sum(span.length for span in spans) > self._max

    def _best_cut(self, next_start: int) -> int:
        """How many regions to cut off: up to the longest pause in the chunk's last part; of pauses
        alike the later one."""
        ends = [region.end for region in self._regions]
        starts = [*(region.start for region in self._regions[1:]), next_start]
        earliest = self._regions[0].start + (1.0 - self.options.cut_window) * self._max
        # Pauses of a second and more are all good: beyond that a fuller chunk is better.
        pauses = [
            (min(start - end, SAMPLE_RATE), count + 1)
            for count, (end, start) in enumerate(zip(ends, starts, strict=True))
            if end >= earliest or count + 1 == len(ends)
        ]
        return max(pauses)[1]

    def _shared_end(self, end: int, following: int) -> int:
        """Where a pause is divided: the next chunk's padding is its own, half of it if short."""
        return max((end + following) // 2, following - self._before)

    def _cut(self, count: int, end: int) -> Piece:
        """Make a piece of the first `count` regions, padded to the sample `end` at most."""
        regions, rest = self._regions[:count], self._regions[count:]
        spans = self._spans(regions, self._last_cut, end)
        piece = Piece(self._buffer.read(spans), tuple(spans), tuple(regions))
        self._regions = rest
        self._last_cut = spans[-1].end
        return piece

    def _spans(self, regions: Sequence[Region], begin: int, end: int) -> list[Region]:
        """The regions with padding, joined where the pause between them is kept whole."""
        spans = [Region(max(begin, regions[0].start - self._before), regions[0].end)]
        for region in regions[1:]:
            if region.start - spans[-1].end <= self._max_pause:
                spans[-1] = Region(spans[-1].start, region.end)
            else:
                spans[-1] = Region(spans[-1].start, spans[-1].end + self._after)
                spans.append(Region(region.start - self._before, region.end))
        room = self._max_padded - sum(span.length for span in spans)
        last = spans[-1]
        pad = min(self._after, room, end - last.end)
        spans[-1] = Region(last.start, last.end + max(pad, 0))
        return spans

    def _split_long_speech(self) -> Iterator[Piece]:
        """Cut speech that goes on for a whole chunk at its least speech-like moment."""
        start = self._detector.open_start
        longest = self._max - self._before
        if start is None or self._detector.position - start <= longest:
            return
        at = self._buffer.quietest(start + longest // 2, start + longest)
        yield from self._take(iter([self._detector.split_open(at)]))

    def _end_at_silence(self) -> Iterator[Piece]:
        if not self._regions or self._detector.open_start is not None:
            return
        silence = self._detector.position - self._regions[-1].end
        if silence > self.options.max_silence_s * SAMPLE_RATE:
            yield self._cut(len(self._regions), self._detector.position)

    def _needed_from(self) -> int:
        starts = [region.start for region in self._regions[:1]]
        if self._detector.open_start is not None:
            starts.append(self._detector.open_start)
        # A region may begin up to a frame or two before it is recognised.
        return min([*starts, self._detector.position - 2 * FRAME_SAMPLES]) - self._before


class _Buffer:
    """Samples and probabilities that a chunk may still need; positions are the file's."""

    def __init__(self) -> None:
        self._pcm = np.zeros(0, np.int16)
        self._start = 0
        self._probabilities = np.zeros(0, np.float32)
        self._first_frame = 0

    @property
    def end(self) -> int:
        return self._start + len(self._pcm)

    def append(self, pcm: npt.NDArray[np.int16], probabilities: npt.NDArray[np.float32]) -> None:
        self._pcm = np.concatenate((self._pcm, pcm))
        self._probabilities = np.concatenate((self._probabilities, probabilities))

    def drop_before(self, sample: int) -> None:
        sample = max(sample, self._start)
        self._pcm = self._pcm[sample - self._start :]
        self._start = sample
        frame = max(sample // FRAME_SAMPLES, self._first_frame)
        self._probabilities = self._probabilities[frame - self._first_frame :]
        self._first_frame = frame

    def read(self, spans: Sequence[Region]) -> npt.NDArray[np.int16]:
        assert spans[0].start >= self._start, "the buffer dropped audio that was needed"
        parts = [self._pcm[s.start - self._start : s.end - self._start] for s in spans]
        return np.concatenate(parts)

    def quietest(self, first: int, last: int) -> int:
        """The sample in [first, last) around which a quarter second sounds least like speech."""
        width = 8
        low, high = (sample // FRAME_SAMPLES - self._first_frame for sample in (first, last))
        window = self._probabilities[low:high]
        smooth = np.convolve(window, np.ones(width) / width, mode="valid")
        # Of equals the latest, which fills the chunk.
        best = len(smooth) - 1 - int(np.argmin(smooth[::-1]))
        return (low + best + width // 2 + self._first_frame) * FRAME_SAMPLES
