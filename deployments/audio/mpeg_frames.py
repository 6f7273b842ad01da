"""Headers of the frames that make up MP3, MP2 and ADTS AAC files, one after another."""

from dataclasses import dataclass

FRAMED = frozenset(["mp3", "aac"])
"""Containers that hold only frames and tags, by the first name of ffmpeg's demuxer."""

MIN_FRAMES = 3
"""Number of frames in a row that cannot be lookalikes."""

# kbit/s by index: layer II and layer III of MPEG-1, then both layers of MPEG-2 and 2.5
_LAYER_2 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_LAYER_3 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_LOW_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG_RATES = (44_100, 48_000, 32_000)
_HALVINGS = {3: 0, 2: 1, 0: 2}  # how often these rates are halved, by version: MPEG-1, 2, 2.5
_AAC_RATES = (
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
)  # fmt: skip
_ADTS_HEAD_BYTES, _MPEG_HEAD_BYTES = 7, 4


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's length in bytes, its samples per channel, and its sample rate in Hz."""

    n_bytes: int
    n_samples: int
    sample_rate: int


def read_frame(data: bytes, offset: int, container: str) -> Frame | None:
    """The frame whose header is at `offset`, None if there is none.

    Args:
        container: one of `FRAMED`.
    """
    if data[offset : offset + 1] != b"\xff":
        return None
    return (_read_mpeg if container == "mp3" else _read_adts)(data, offset)


def _read_adts(data: bytes, offset: int) -> Frame | None:
    """ISO/IEC 13818-7."""
    head = data[offset : offset + _ADTS_HEAD_BYTES]
    if len(head) < _ADTS_HEAD_BYTES or head[1] & 0xF6 != 0xF0:
        return None
    n_bytes = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    rate_index = head[2] >> 2 & 15
    if n_bytes <= _ADTS_HEAD_BYTES or rate_index >= len(_AAC_RATES):
        return None
    return Frame(n_bytes, 1_024 * (1 + (head[6] & 3)), _AAC_RATES[rate_index])


def _read_mpeg(data: bytes, offset: int) -> Frame | None:
    """Layers II and III (ISO/IEC 11172-3, 13818-3). Frames of free format are not recognised,
    because their headers do not state a length."""
    head = data[offset : offset + _MPEG_HEAD_BYTES]
    if len(head) < _MPEG_HEAD_BYTES or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate_index, bits_index = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer not in (2, 3) or rate_index == 3 or bits_index in (0, 15):
        return None
    is_mpeg_1 = version == 3
    table = (_LAYER_2 if layer == 2 else _LAYER_3) if is_mpeg_1 else _LOW_RATES
    sample_rate = _MPEG_RATES[rate_index] >> _HALVINGS[version]
    n_samples = 576 if layer == 3 and not is_mpeg_1 else 1_152
    bits_per_s = 1_000 * table[bits_index]
    n_bytes = n_samples * bits_per_s // (8 * sample_rate) + (head[2] >> 1 & 1)
    return Frame(n_bytes, n_samples, sample_rate)
