"""The ingress of HTTP without a cluster: it takes requests, and hears the same in every file."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from deployments.entrance.admission import Admission, Ticket
from deployments.entrance.ingress import Done
from deployments.entrance.limits import IngressLimits
from deployments.entrance.remote import Work
from deployments.entrance.rules import Rules
from deployments.entrance.tasks import RoutingOptions
from deployments.messages import Transcript, TranscriptSegment
from deployments.options import TranscribeOptions
from serve.http.auth import Auth
from serve.http.receiving import Reception, UploadLimits
from serve.http.routes import HttpIngress

_AT_ONCE = 50
"""Segments that come together."""


class Deaf(HttpIngress):
    """Remembers what it is asked and by which rules, and gives a transcript.

    Args:
        segments: of the transcript.
        page: whether the page is shown.
        duration_s: of the audio.
        aliases: names of the tiers in `tiers`.
        max_bytes: of uploads, each and all.
    """

    def __init__(
        self,
        segments: tuple[TranscriptSegment, ...],
        page: bool = True,
        duration_s: float = 12.3456,
        aliases: Mapping[str, str] | None = None,
        max_bytes: int = 10_000,
    ) -> None:
        self.asked: list[tuple[Any, TranscribeOptions]] = []
        self.went_by: list[Rules | None] = []
        self.admission = Admission(9, 9.0)
        self.tiers = dict.fromkeys((aliases or {}).values())  # type: ignore[arg-type]
        self.rules = Rules(aliases or {}, IngressLimits(), RoutingOptions((), {}))
        self._auth, self._max_upload_bytes = Auth(()), max_bytes
        self.shows_page = page
        self.reception = Reception(UploadLimits(9, 9, 1e9, 0.0))
        self._segments, self._duration_s = segments, duration_s

    def account_refusal(self, outcome: str, request_id: str) -> None:
        """There are no metrics without Serve."""

    async def run(
        self,
        source: Any,
        options: TranscribeOptions,
        partial: bool = False,
        request_id: str = "",
        ticket: Ticket | None = None,
        rules: Rules | None = None,
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        with ticket or self.admission.admit():
            self.asked.append((source, options))
            self.went_by.append(rules)
            said = self._segments
            text = "".join(segment.text for segment in said).strip()
            for first in range(0, len(said), _AT_ONCE):
                yield list(said[first : first + _AT_ONCE])
            language = "pt" if said else ""
            yield Done(Transcript(text, language, self._duration_s, options.task, said), Work())
