"""A stream of audio -> chunks of at most 30 s: cut in silence, packed full, nothing lost.

Speech regions are packed into a chunk until the next one would overflow it. The cut is then made in
the longest pause in the last part of the chunk. Pauses that are too long to keep are shortened, so
a chunk is a row of spans of the file, and a `Piece` maps the chunk's times back to the file's.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from deployments.audio.voice_network import FRAME_SAMPLES
from deployments.options import ChunkingOptions, VadOptions
from deployments.transcript.piece import Piece
from deployments.transcript.vad import (
    ProbabilityStream,
    Region,
    RegionDetector,
    SpeechProbabilities,
)
from engine import N_SAMPLES, SAMPLE_RATE

CLEAR_PROBABILITY = 0.5
"""Silero's own threshold. What passes only a lower one set by the caller may be any sound."""


class Chunker:
    """Cuts one file's audio, block by block. Holds at most a minute or two of it.

    Args:
        probabilities: tells speech from silence; by default Silero's model.
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
        """Take the file's next samples; yields the chunks that they complete."""
        probabilities = self._probabilities.push(pcm)
        self._buffer.append(pcm, probabilities)
        yield from self._advance(probabilities)
        self._buffer.drop_before(self._needed_from())

    def _advance(self, probabilities: npt.NDArray[np.float32]) -> Iterator[Piece]:
        # Go frame by frame, so that the cuts do not depend on the size of the blocks.
        for frame in range(len(probabilities)):
            yield from self._take(self._detector.push(probabilities[frame : frame + 1]))
            yield from self._split_long_speech()
            yield from self._end_at_silence()

    def finish(self) -> Iterator[Piece]:
        """Take the end of the file; yields the chunks that are left."""
        probabilities = self._probabilities.finish()
        self._buffer.append(np.zeros(0, np.int16), probabilities)
        yield from self._advance(probabilities)
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
        """How many regions to cut off: those before the longest pause in the last part of the
        chunk; of equal pauses, the latest."""
        ends = [region.end for region in self._regions]
        starts = [*(region.start for region in self._regions[1:]), next_start]
        earliest = self._regions[0].start + (1.0 - self.options.cut_window) * self._max
        # Pauses of a second or more are all equally good: among them, a fuller chunk is better.
        pauses = [
            (min(start - end, SAMPLE_RATE), count + 1)
            for count, (end, start) in enumerate(zip(ends, starts, strict=True))
            if end >= earliest or count + 1 == len(ends)
        ]
        return max(pauses)[1]

    def _shared_end(self, end: int, following: int) -> int:
        """Where a pause between two chunks is divided: the next chunk gets its padding, but at most
        half of the pause."""
        return max((end + following) // 2, following - self._before)

    def _cut(self, count: int, end: int) -> Piece:
        """Make a piece of the first `count` regions, padded up to the sample `end` at most."""
        regions, rest = self._regions[:count], self._regions[count:]
        spans = self._spans(regions, self._last_cut, end)
        voiced = [run for region in regions for run in self._buffer.voiced(region)]
        piece = Piece(self._buffer.read(spans), tuple(spans), tuple(regions), tuple(voiced))
        piece = piece.raised()
        self._regions = rest
        self._last_cut = spans[-1].end
        return piece

    def _spans(self, regions: Sequence[Region], begin: int, end: int) -> list[Region]:
        """The regions with padding, joined where the pause between them is short enough to keep."""
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
        """Cut speech that fills a whole chunk at its least speech-like moment."""
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
        # A region may begin a frame or two before it is recognised.
        return min([*starts, self._detector.position - 2 * FRAME_SAMPLES]) - self._before


class _Buffer:
    """Samples and probabilities that a chunk may still need. Positions are samples of the file."""

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

    def voiced(self, region: Region) -> Iterator[Region]:
        """Yields runs of a region's frames that are clearly speech, whatever threshold made the
        region."""
        first = region.start // FRAME_SAMPLES
        last = -(-region.end // FRAME_SAMPLES)
        clear = self._probabilities[first - self._first_frame : last - self._first_frame]
        edges = np.flatnonzero(np.diff(np.r_[False, clear >= CLEAR_PROBABILITY, False]))
        for start, stop in (first + edges.reshape(-1, 2)) * FRAME_SAMPLES:
            run = Region(max(int(start), region.start), min(int(stop), region.end))
            if run.length > 0:
                yield run

    def quietest(self, first: int, last: int) -> int:
        """The sample in [first, last) around which a quarter second sounds least like speech."""
        width = 8
        low, high = (sample // FRAME_SAMPLES - self._first_frame for sample in (first, last))
        window = self._probabilities[low:high]
        smooth = np.convolve(window, np.ones(width) / width, mode="valid")
        # Of equal moments the latest, which makes the fullest chunk.
        best = len(smooth) - 1 - int(np.argmin(smooth[::-1]))
        return (low + best + width // 2 + self._first_frame) * FRAME_SAMPLES
