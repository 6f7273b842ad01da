"""Metrics and one log line for each request. They never contain text or audio."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from deployments import metrics
from deployments.entrance.remote import Work
from deployments.errors import DeploymentError
from deployments.fleet import TierFacts
from deployments.messages import Escalation, Transcript
from deployments.options import TranscribeOptions
from engine import RequestError

logger = logging.getLogger("ray.serve")


class RequestRecord:
    """What the log line of a request says."""

    def __init__(self, request_id: str, options: TranscribeOptions) -> None:
        self.request_id = request_id
        self.options = options
        self.tier = ""
        self.run = ""
        self.outcome = "ok"
        self.audio_s = 0.0
        self.language = ""
        self.work: Work | None = None
        self.escalations: list[Escalation] = []
        self.is_live = False
        self._began = time.perf_counter()
        self._took_s: float | None = None

    @property
    def finished(self) -> bool:
        return self._took_s is not None

    @property
    def took_s(self) -> float:
        return self._took_s or time.perf_counter() - self._began

    def finish(self, transcript: Transcript) -> None:
        self._took_s = time.perf_counter() - self._began
        self.audio_s = transcript.duration_s
        self.language = transcript.language

    def finish_live(self, audio_s: float) -> None:
        """Record the end of a live session, with the seconds of audio of its turns."""
        self.is_live = True
        self._took_s = time.perf_counter() - self._began
        self.audio_s = audio_s

    def fields(self) -> dict[str, Any]:
        work = self.work or Work()
        return {
            "id": self.request_id,
            "run": self.run,
            "outcome": self.outcome,
            "model": self.options.model,
            "tier": self.tier,
            "task": self.options.task,
            "language": self.language,
            "audio_s": round(self.audio_s, 3),
            "took_s": round(self.took_s, 4),
            "rtfx": round(self.audio_s / max(self.took_s, 1e-9), 2),
            "chunks": work.n_chunks,
            "retried": work.n_retries,
            "escalated": len(self.escalations),
            "device_s": round(sum(tier.device_s for tier in work.tiers.values()), 4),
            "tokens": work.n_tokens,
            **{f"{stage}_s": round(seconds, 4) for stage, seconds in work.stages_s.items()},
        }


class Accounts:
    """Metrics and log of one ingress.

    Attributes:
        facts: the facts of all tiers, by name.
    """

    def __init__(self, facts: Mapping[str, TierFacts]) -> None:
        self.facts = facts
        self._queued = metrics.QUEUED_AUDIO.gauge()
        self._requests = metrics.REQUESTS.counter()
        self._audio = metrics.AUDIO.counter()
        self._latency = metrics.REQUEST_LATENCY.histogram()
        self._rtfx = metrics.RTFX.histogram()
        self._stages = metrics.STAGE_LATENCY.histogram()
        self._retried = metrics.CHUNKS_RETRIED.counter()
        self._escalated = metrics.CHUNKS_ESCALATED.counter()
        self._device = metrics.DEVICE_SECONDS.counter()
        self._cost = metrics.COST.counter()
        self._outcomes: Counter[str] = Counter()

    def usd(self, work: Work) -> float:
        """The price of the replica time that a request used."""
        return sum(self._usd(name, tier.device_s) for name, tier in work.tiers.items())

    def queued(self, tier: str, audio_s: float) -> None:
        """Record the audio of a tier that is accepted and not transcribed yet."""
        self._queued.set(audio_s, {"tier": tier})

    def chunk(self, tier: str, stages_s: Mapping[str, float]) -> None:
        """Record that a chunk was decoded."""
        for stage, seconds in stages_s.items():
            self._stages.observe(seconds, {"tier": tier, "stage": stage})

    def request(self, record: RequestRecord) -> None:
        """Record that a request has ended."""
        labels = {"tier": record.tier}
        work = record.work or Work()
        self._requests.inc(1, labels | {"outcome": record.outcome})
        self._outcomes[record.outcome] += 1
        if work.n_retries:
            self._retried.inc(work.n_retries, labels)
        for escalation in record.escalations:
            self._escalated.inc(1, {"tier": escalation.tier, "reason": escalation.reason})
        if record.outcome == "ok":
            self._done(record, work, labels)
        fields = record.fields()
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        logger.info("request %s", words, extra={"murmur": fields})

    def outcomes(self) -> dict[str, int]:
        """Requests that ended since the last call, by outcome."""
        outcomes, self._outcomes = self._outcomes, Counter()
        return dict(outcomes)

    def _done(self, record: RequestRecord, work: Work, labels: dict[str, str]) -> None:
        for name, done in work.tiers.items():
            self._device.inc(done.device_s, {"tier": name})
            self._cost.inc(self._usd(name, done.device_s), {"tier": name})
        if record.audio_s:  # a counter refuses 0
            self._audio.inc(record.audio_s, labels)
        if record.is_live:  # how long it took is up to who speaks
            return
        self._latency.observe(record.took_s, labels)
        self._rtfx.observe(record.audio_s / max(record.took_s, 1e-9), labels)
        for stage in ("read", "vad"):
            self._stages.observe(work.stages_s.get(stage, 0.0), labels | {"stage": stage})

    def _usd(self, tier: str, device_s: float) -> float:
        return device_s / 3600 * self.facts[tier].usd_per_hour


def outcome_of(error: BaseException) -> str:
    """The kind of an error, as a label; for example `not_audio` for NotAudioError."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    if not isinstance(error, DeploymentError | RequestError):
        return "fault"
    name = type(error).__name__.removesuffix("Error")
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
