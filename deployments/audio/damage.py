"""Collects the stretches of a file that could not be decoded, and reports them in few warnings."""

from deployments.audio.report import AudioReport

_MERGE_S = 1.0  # one fault often breaks several frames, with good ones between
_NEAR_S = 3.0  # ffmpeg's threads and pipes run ahead of each other
_MAX_COMPLAINTS = 16
_MAX_WARNINGS = 16  # they also travel in an HTTP header


class DamageList:
    """Takes gaps and complaints in file order."""

    def __init__(self) -> None:
        self._stretches: list[tuple[float, float]] = []
        self._complaints: list[float] = []  # that no gap has explained, in file order
        self._hint_s: float | None = None

    def add_gap(self, start_s: float, end_s: float) -> None:
        """Add a gap that follows a complaint of the decoder: there was sound, and it is lost."""
        self._complaints = [near_s for near_s in self._complaints if near_s < start_s - _NEAR_S]
        last = self._stretches[-1] if self._stretches else None
        is_near = last is not None and start_s - last[1] < _MERGE_S
        if last is not None and (is_near or len(self._stretches) == _MAX_WARNINGS):
            self._stretches[-1] = (last[0], end_s)
        else:
            self._stretches.append((start_s, end_s))

    def add_complaint(self, near_s: float) -> None:
        """Add a complaint of the decoder. A gap may follow and explain it."""
        last_s = self._complaints[-1] if self._complaints else None
        if last_s is not None and near_s - last_s < _NEAR_S:
            self._complaints[-1] = near_s
        elif len(self._complaints) < _MAX_COMPLAINTS:
            self._complaints.append(near_s)

    def add_hint(self, near_s: float) -> None:
        """Add a complaint that need not be about this sound. It explains a gap, and is not told
        where none follows."""
        self._hint_s = near_s

    def explains(self, start_s: float) -> bool:
        """Whether a complaint or a hint explains a gap that begins at `start_s`."""
        hinted = self._hint_s is not None and self._hint_s >= start_s - _NEAR_S
        return hinted or self._complained(start_s)

    def take_complaint_near(self, end_s: float) -> bool:
        """Whether the decoder complained near `end_s` and no gap followed. The complaint then
        counts as explained."""
        if not self._complained(end_s):
            return False
        self._complaints = [near_s for near_s in self._complaints if near_s < end_s - _NEAR_S]
        return True

    def _complained(self, start_s: float) -> bool:
        return any(near_s >= start_s - _NEAR_S for near_s in self._complaints)

    def tell(self, report: AudioReport) -> None:
        """Add warnings for all that was collected to the report."""
        for start_s, stop_s in self._stretches:
            text = f"damaged: {stop_s - start_s:.2f} s from {start_s:.2f} s on cannot be decoded"
            report.warn("damaged", text, start_s, stop_s)
        for near_s in self._complaints:
            text = f"damaged: some of the sound near {near_s:.0f} s cannot be decoded"
            report.warn("damaged", text)
