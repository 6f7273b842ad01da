"""Definitions of all metrics of the cluster: name, unit, labels and meaning.

Ray exports them with the prefix `ray_` and adds the labels `application`, `deployment` and
`replica`; counters also get the suffix `_total`. docs/operations.md contains the same table, and a
test compares the two.
"""

from dataclasses import dataclass
from typing import Any, Literal

from ray.serve.metrics import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_RTFX = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_FILL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


@dataclass(frozen=True, slots=True)
class Metric:
    """The definition of one metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()

    def counter(self) -> Counter:
        assert self.kind == "counter"
        return Counter(self.name, self._description, self._tag_keys)

    def gauge(self) -> Gauge:
        assert self.kind == "gauge"
        return Gauge(self.name, self._description, self._tag_keys)

    def histogram(self) -> Histogram:
        assert self.kind == "histogram"
        return Histogram(self.name, self._description, list(self.buckets), self._tag_keys)

    @property
    def _tag_keys(self) -> Any:
        return self.labels  # Ray annotates this as a tuple of length one

    @property
    def _description(self) -> str:
        return f"{self.meaning} ({self.unit})"


QUEUED_AUDIO = Metric(
    "murmur_queued_audio_s",
    "gauge",
    "seconds",
    ("tier",),
    "Audio that an ingress has accepted and that is not transcribed yet.",
)
REQUESTS = Metric(
    "murmur_requests",
    "counter",
    "requests",
    ("tier", "outcome"),
    "Requests that ended, by `ok` or the kind of error.",
)
AUDIO = Metric(
    "murmur_audio_s", "counter", "seconds", ("tier",), "Audio of requests that ended well."
)
REQUEST_LATENCY = Metric(
    "murmur_request_s",
    "histogram",
    "seconds",
    ("tier",),
    "Time from a request's whole body to its whole answer.",
    _SECONDS,
)
RTFX = Metric(
    "murmur_rtfx",
    "histogram",
    "audio seconds per second",
    ("tier",),
    "Speed of single requests, waiting included.",
    _RTFX,
)
STAGE_LATENCY = Metric(
    "murmur_stage_s",
    "histogram",
    "seconds",
    ("tier", "stage"),
    "Time of a request in `read` (bytes to samples) and `vad`; of a chunk `held` (until a tier has "
    "room), in `hops` (to the replica and back), `waiting` (for a slot), `prefill` (features, "
    "encoder, prompt), `decode`.",
    _SECONDS,
)
CHUNKS_RETRIED = Metric(
    "murmur_chunks_retried",
    "counter",
    "chunks",
    ("tier",),
    "Chunks that ran again because their replica was lost.",
)
CHUNKS_ESCALATED = Metric(
    "murmur_chunks_escalated",
    "counter",
    "chunks",
    ("tier", "reason"),
    "Chunks that went to a more accurate tier, by the tier whose text looked wrong, and why: "
    "`probability`, `compression`, `repetition`, `no_speech` or `language`.",
)
DEVICE_SECONDS = Metric(
    "murmur_device_s",
    "counter",
    "seconds",
    ("tier",),
    "Time of replicas that chunks used, of requests that ended well.",
)
COST = Metric(
    "murmur_cost_usd",
    "counter",
    "US dollars",
    ("tier",),
    "The same at the price of a replica.",
)
SLOTS = Metric("murmur_slots", "gauge", "slots", ("tier",), "Slots of a replica.")
SLOTS_IN_USE = Metric(
    "murmur_slots_in_use", "gauge", "slots", ("tier",), "Slots that hold a chunk."
)
CHUNKS_WAITING = Metric(
    "murmur_chunks_waiting", "gauge", "chunks", ("tier",), "Chunks in a replica that wait for one."
)
BATCH_FILL = Metric(
    "murmur_batch_fill",
    "histogram",
    "share of slots",
    ("tier",),
    "How full a replica's batch was, on average over the steps of some seconds.",
    _FILL,
)
LIVE_SESSIONS = Metric(
    "murmur_live_sessions", "gauge", "sessions", (), "Live sessions that are open at an ingress."
)
LIVE_END = Metric(
    "murmur_live_end_s",
    "histogram",
    "seconds",
    ("tier",),
    "Time from the end of a live turn to its whole text.",
    _SECONDS,
)
CANARY_REQUESTS = Metric(
    "murmur_canary_requests",
    "counter",
    "requests",
    ("tier", "to"),
    "Requests for `tier` that met the canary `to`.",
)
CANARY_CHUNKS = Metric(
    "murmur_canary_chunks",
    "counter",
    "chunks",
    ("tier", "to", "outcome"),
    "Chunks of such requests that a canary in the shadow was to decode as well: `compared`, "
    "`failed`, or `skipped` because too many were under way.",
)
CANARY_WORDS = Metric(
    "murmur_canary_words", "counter", "words", ("tier", "to"), "Words of the compared chunks."
)
CANARY_CHANGED = Metric(
    "murmur_canary_words_changed",
    "counter",
    "words",
    ("tier", "to"),
    "Words to change, leave out or put in to come from these to the canary's.",
)

ALL = (
    QUEUED_AUDIO,
    REQUESTS,
    AUDIO,
    REQUEST_LATENCY,
    RTFX,
    STAGE_LATENCY,
    CHUNKS_RETRIED,
    CHUNKS_ESCALATED,
    DEVICE_SECONDS,
    COST,
    SLOTS,
    SLOTS_IN_USE,
    CHUNKS_WAITING,
    BATCH_FILL,
    LIVE_SESSIONS,
    LIVE_END,
    CANARY_REQUESTS,
    CANARY_CHUNKS,
    CANARY_WORDS,
    CANARY_CHANGED,
)
