"""Where a file's sound begins: encoder delay to drop, or silence before a late start.

A coded stream begins with samples that only the codec made: the encoder delay, and what a decoder
outputs before its overlapping windows meet. MP4 edit lists, CAF, Matroska, Ogg and the LAME tag
state this delay, and ffmpeg drops it. MP3 without that tag, ADTS, MPEG-TS, FLV, AVI and fragmented
MP4 do not state it, and their sound would come 10 to 70 ms late.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.audio.timeline import MAX_GAP_S

# Samples before the sound, as made by LAME (576 + 529) and ffmpeg's MP2 encoder (480 + 1). Most AAC
# encoders make one frame. Other encoders make more, but no stream says so.
_MP3_DELAY, _MP2_DELAY = 1_105, 481
_TELLS_ITS_DELAY = frozenset(["caf", "matroska", "ogg"])
_ROUNDING_S = 0.002
_SILENT_RMS = 1e-4  # -80 dB
_QUIET_SHARE = 0.25  # -12 dB: coding lets some of an onset leak to before it (pre-echo)


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What ffmpeg says about a file.

    Attributes:
        container: the first of its demuxer's names, such as `mov` or `mpegts`.
        codec: such as `aac` or `mp3`.
        clock_start_s: when the file's clock begins: with its video, or with the earliest of its
            audio tracks if there are several; None if the sound that is read is all there is.
        trims_delay: whether an MP4 or MOV file states the encoder delay.
    """

    container: str
    codec: str
    clock_start_s: float | None
    trims_delay: bool


@dataclass(frozen=True, slots=True)
class Beginning:
    """Either `silence` samples to insert, or `delay` samples to drop if they hold no sound."""

    silence: int
    delay: int


def find_beginning(facts: StreamFacts, stamp: int, n_samples: int, sample_rate: int) -> Beginning:
    """What to do before the first frame.

    Args:
        stamp: timestamp of the first frame, in samples.
        n_samples: length of the first frame.
        sample_rate: Hz.
    """
    delay = _codec_delay(facts, stamp, n_samples)
    is_wma = facts.codec.startswith("wmav")
    if facts.clock_start_s is None:
        # Windows overlap by a frame, and ffmpeg's decoder outputs nothing for the first one.
        return Beginning(n_samples, 0) if is_wma else Beginning(0, delay)
    offset = stamp - round(facts.clock_start_s * sample_rate)
    if offset < 0:
        # The stream starts before the video. If by no more than the delay, the difference is delay;
        # if by more, it is sound, and begins the file.
        is_delay = -offset <= delay + _ROUNDING_S * sample_rate
        return Beginning(0, -offset if is_delay else 0)
    if offset > MAX_GAP_S * sample_rate:
        offset = 0
    # In these cases the delay must end at `offset`; in others, its first sample belongs there.
    counts_delay = facts.container == "avi" or (offset == 0 and not is_wma)
    place = offset - delay if counts_delay else offset
    return Beginning(max(0, place), max(0, -place))


def is_empty(beginning: npt.NDArray[np.float32], delay: int) -> bool:
    """Whether the first `delay` frames hold no sound of their own: they are silent, or far quieter
    than what follows. A stream that was cut out of a longer one has no delay, so its sound is kept.

    Args:
        beginning: shape (n_frames, n_channels), about three times `delay` frames.
    """
    first, following = _rms(beginning[:delay]), _rms(beginning[delay:])
    return first <= max(_SILENT_RMS, _QUIET_SHARE * following)


def _codec_delay(facts: StreamFacts, stamp: int, n_samples: int) -> int:
    """Number of samples at the beginning that only the codec made."""
    if facts.codec.startswith("wmav"):
        return n_samples
    if facts.container in _TELLS_ITS_DELAY or (facts.container == "mov" and facts.trims_delay):
        return 0
    if facts.container == "mp3" and stamp != 0:  # already dropped, as the LAME tag says
        return 0
    if facts.codec.startswith("aac"):
        return n_samples
    if facts.codec.startswith("mp3"):
        return _MP3_DELAY
    return _MP2_DELAY if facts.codec == "mp2" else 0


def _rms(frames: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(frames, dtype=np.float64)))) if frames.size else 0.0
