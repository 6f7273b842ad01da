"""Audio that several of these tests need."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def speech(clips: dict[str, np.ndarray]) -> np.ndarray:
    """The committed clips with second-long pauses: 30 s, int16 at 16 kHz."""
    pause = np.zeros(16_000, np.int16)
    return np.concatenate([part for clip in clips.values() for part in (clip, pause)])
