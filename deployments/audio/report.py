"""What reading a file brought to light beside its samples: warnings, and what was listened to.

Written on the thread that reads, and read when the reading is over.
"""

from deployments.messages import AudioInfo, AudioWarning

WARNINGS = {
    "truncated": "the file ends before the end that it promises",
    "damaged": "a stretch of the file cannot be decoded",
}
"""Every warning's code, and what it means."""


class AudioReport:
    """Of one file.

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
