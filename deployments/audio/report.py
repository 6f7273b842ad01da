"""What reading a file found beside its samples: warnings, and which track and channels were read.

The reading thread writes the report; others read it when the reading is over.
"""

from deployments.messages import AudioInfo, AudioWarning

MADE_UP = "made_up"
WARNINGS = {
    "truncated": "the file ends before the end that it promises",
    "damaged": "a stretch of the file cannot be decoded",
    MADE_UP: "text that looked made up was left out, as the caller asked",
}
"""The code of each kind of warning, and what it means."""


class AudioReport:
    """What reading one file found.

    Attributes:
        warnings: in file order.
        info: None until the file is open.
    """

    def __init__(self) -> None:
        self.warnings: list[AudioWarning] = []
        self.info: AudioInfo | None = None

    def warn(
        self, code: str, message: str, start_s: float | None = None, end_s: float | None = None
    ) -> None:
        """Add a warning; see `AudioWarning`."""
        assert code in WARNINGS, f"a new code is listed first: {code}"
        self.warnings.append(AudioWarning(code, " ".join(message.split()), start_s, end_s))
