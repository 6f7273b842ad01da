"""The router's and the autoscaler's view of the cluster: a snapshot of all tiers, as plain numbers.

Work is measured in seconds of audio, speed in seconds of audio per second (RTFx), and money in US
dollars. The audio of a chunk that is decoded to several texts side by side, as in a beam search,
counts once for each.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

MEAN_CHUNK_S = 20.0
"""Mean audio per chunk, assumed until chunks have been seen. Chunks are cut at pauses, so they
rarely fill a window of 30 s."""


class Quality(StrEnum):
    """How accurate a transcript has to be if the caller names no model.

    `FAST`: use the cheapest model. `BALANCED`: use, for each chunk, the cheapest model whose text
    looks right. `BEST`: use the most accurate model.
    """

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class Priority(StrEnum):
    """Which requests go first, and how long their chunks may wait. Running chunks are not
    interrupted: a chunk of higher priority gets the slot when a chunk of lower priority ends."""

    REALTIME = "realtime"
    INTERACTIVE = "interactive"
    BATCH = "batch"

    @property
    def rank(self) -> int:
        """The engine's priority number; lower numbers are served first. To prevent starvation, the
        engine's queue raises the priority of what waits by 1 every 30 s."""
        return {Priority.REALTIME: -4, Priority.INTERACTIVE: 0, Priority.BATCH: 20}[self]


def deployment_name(tier: str) -> str:
    """A tier's deployment name. It has no dots, because Ray cuts task names at the last dot."""
    return tier.replace(".", "_")


@dataclass(frozen=True, slots=True)
class TierFacts:
    """Facts about a tier, by its settings.

    Attributes:
        quality: quality of its model. A higher number is more accurate; tiers of equal quality are
            interchangeable. 0: unknown; the tier is used only by requests that name it.
        languages: ISO codes; None: all languages.
        translates: whether its model translates other languages to English.
        accelerator: class of its devices.
        usd_per_hour: price of a replica, all its devices together.
        slots: chunks that a replica decodes at once.
        cold_start_s: time from the request for a replica to its first chunk, including the start of
            a node.
        machine: what a replica requests from Ray, as any text. If the cluster cannot provide it for
            one tier, it cannot for other tiers with the same text. Empty: no other tier requests
            the same.
        max_slot_groups: groups that a replica's slots are divided into, at most. All texts of a
            chunk are in one group.
        adapters: names of the model's adapters, which requests may ask for.
    """

    name: str
    quality: int
    languages: frozenset[str] | None
    translates: bool
    accelerator: str
    usd_per_hour: float
    min_replicas: int
    max_replicas: int
    slots: int
    cold_start_s: float
    machine: str = ""
    max_slot_groups: int = 1
    adapters: tuple[str, ...] = ()

    @property
    def max_texts(self) -> int:
        """Texts of a chunk that a replica can decode side by side, at least."""
        return max(1, self.slots // self.max_slot_groups)

    def can(self, language: str | None, task: str) -> bool:
        """Whether its model does a task in a language; None: the model has to detect it."""
        if task == "translate" and not self.translates:
            return False
        if language is None:
            return self.languages is None or len(self.languages) > 1
        return self.languages is None or language in self.languages


@dataclass(frozen=True, slots=True)
class TierState:
    """The current state of a tier.

    Attributes:
        rtfx: speed of one replica with all its slots in use.
        queued_s: unfinished audio that was sent to the tier, or is held for it; batch priority
            excluded.
        batch_s: the same for batch priority.
        ready: replicas that answer.
        denied: whether the cluster cannot provide more replicas now.
    """

    facts: TierFacts
    rtfx: float
    queued_s: float = 0.0
    batch_s: float = 0.0
    ready: int = 0
    denied: bool = False

    @property
    def usd_per_audio_s(self) -> float:
        """Price of a second of audio while its replicas are busy."""
        return self.facts.usd_per_hour / 3600 / self.rtfx

    def waiting_s(self, chunk_s: float, with_batch: bool = False) -> float:
        """Seconds of audio that wait for a slot, if a chunk has `chunk_s` seconds on average."""
        queued_s = self.queued_s + (self.batch_s if with_batch else 0.0)
        return max(0.0, queued_s - self.ready * self.facts.slots * chunk_s)

    def wait_s(self, chunk_s: float, with_batch: bool = False) -> float:
        """Seconds until a chunk that is sent to the tier now gets a slot."""
        if self.ready == 0 and self.denied:
            return math.inf
        if self.ready == 0:
            queued_s = self.queued_s + (self.batch_s if with_batch else 0.0)
            return self.facts.cold_start_s + queued_s / self.rtfx
        return self.waiting_s(chunk_s, with_batch) / (self.ready * self.rtfx)
