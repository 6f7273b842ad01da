"""Changes of the sound: speed, noise, telephone lines, loudness, and SpecAugment's masks.

Pure functions of samples, settings and a generator of random numbers.
"""

import numpy as np
import numpy.typing as npt
import soxr
import torch

from engine import SAMPLE_RATE
from training.settings import AugmentSettings

Samples = npt.NDArray[np.float32]

_MU = 255.0
_LINE_RATE = 8_000
_LINE_HZ = (300.0, 3_400.0)
_SOUNDING = 1e-3
_N_MASKS = 2


def at_speed(samples: Samples, speed: float) -> Samples:
    """(n,) -> (about n / speed,): faster and higher, or slower and lower."""
    if speed == 1.0:
        return samples
    return np.asarray(soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE), np.float32)


def changed(samples: Samples, settings: AugmentSettings, rng: np.random.Generator) -> Samples:
    """A window's samples as another microphone, room or line would give them; same length.

    Every window takes the same numbers from the generator, whatever is done with them.
    """
    kinds = rng.random(3)
    snr_db, slope = rng.uniform(*settings.noise_snr_db), rng.uniform(0.0, 1.0)
    gain_db = rng.uniform(-settings.gain_db, settings.gain_db)
    if kinds[0] < settings.noise:
        samples = with_noise(samples, snr_db, slope, rng)
    if kinds[1] < settings.telephone:
        samples = telephone(samples)
    if gain_db:
        samples = samples * np.float32(10 ** (gain_db / 20))
    return np.clip(samples, -1.0, 1.0)


def with_noise(samples: Samples, snr_db: float, slope: float, rng: np.random.Generator) -> Samples:
    """Noise so many decibels below the speech, where that sounds.

    Args:
        slope: power falls with frequency to this power: 0 is white noise, 1 pink.
    """
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    spectrum /= np.maximum(1.0, np.arange(len(spectrum))) ** (slope / 2)
    noise = np.fft.irfft(spectrum, len(samples))
    sounding = samples[np.abs(samples) > _SOUNDING]
    if not len(sounding):
        return samples
    level = np.sqrt(np.mean(np.square(sounding))) * 10 ** (-snr_db / 20)
    # By its mean square: pink noise has most of its power where it may not average to zero.
    return samples + np.asarray(noise * (level / np.sqrt(np.mean(noise**2))), np.float32)


def telephone(samples: Samples) -> Samples:
    """300 to 3,400 Hz at 8 kHz in 8 bits of mu-law (ITU-T G.711), and back to 16 kHz."""
    line = soxr.resample(samples, SAMPLE_RATE, _LINE_RATE)
    spectrum = np.fft.rfft(line)
    frequencies = np.fft.rfftfreq(len(line), 1 / _LINE_RATE)
    spectrum[(frequencies < _LINE_HZ[0]) | (frequencies > _LINE_HZ[1])] = 0
    narrow = np.clip(np.fft.irfft(spectrum, len(line)), -1.0, 1.0)
    compressed = np.sign(narrow) * np.log1p(_MU * np.abs(narrow)) / np.log1p(_MU)
    coded = np.round(compressed * 127) / 127
    heard = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(_MU)) / _MU
    back = np.asarray(soxr.resample(heard, _LINE_RATE, SAMPLE_RATE), np.float32)
    return np.pad(back, (0, max(0, len(samples) - len(back))))[: len(samples)]


def masked(mel: torch.Tensor, settings: AugmentSettings, rng: np.random.Generator) -> torch.Tensor:
    """SpecAugment (Park et al. 2019, without warping): bands and stretches of the window's mean.

    Args:
        mel: (n_mels, n_frames), which is changed.
    """
    mean = mel.mean()
    for axis, widest in ((0, settings.mask_frequencies), (1, settings.mask_frames)):
        for _ in range(_N_MASKS if widest else 0):
            width = int(rng.integers(widest + 1))
            first = int(rng.integers(mel.shape[axis] - width + 1))
            mel.narrow(axis, first, width).copy_(mean.expand_as(mel.narrow(axis, first, width)))
    return mel
