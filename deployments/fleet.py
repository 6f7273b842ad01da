"""What router and autoscaler see of the cluster: one snapshot of all tiers. Numbers alone.

Work is counted in seconds of audio, speed in seconds of audio a second (RTFx), money in US dollars.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

MEAN_CHUNK_S = 20.0
"""Audio of a chunk, until chunks have been seen: pauses rarely leave a window of 30 s full."""


class Quality(StrEnum):
    """How accurate a transcript has to be where the caller names no model.

    `FAST`: by whichever model is the cheapest. `BALANCED`: by the cheapest one whose text looks
    right, chunk by chunk. `BEST`: by the most accurate one there is.
    """

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class Priority(StrEnum):
    """Who goes first, and how long a chunk may wait. Of the lower ones a chunk gives way to those
    above when it ends."""

    REALTIME = "realtime"
    INTERACTIVE = "interactive"
    BATCH = "batch"

    @property
    def rank(self) -> int:
        """The engine's number: lower is served first. A step is what its queue gives for waiting
        30 s, so that nothing starves."""
        return {Priority.REALTIME: -4, Priority.INTERACTIVE: 0, Priority.BATCH: 20}[self]


@dataclass(frozen=True, slots=True)
class TierFacts:
    """What does not change of a tier while it is deployed.

    Attributes:
        quality: of its model; more is more accurate, and equals are interchangeable. 0: unknown,
            and only who names the tier gets it.
        languages: ISO codes; None: all.
        translates: whether it gives English text for other languages.
        accelerator: class of its devices.
        usd_per_hour: of a replica, all its devices together.
        slots: chunks that a replica decodes at once.
        cold_start_s: from the wish for a replica to its first chunk, a node's start included.
        machine: what a replica asks of Ray, in any words; what cannot be had for one tier cannot be
            had for others that ask for the same. Empty: no other does.
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

    def can(self, language: str | None, task: str) -> bool:
        """Whether its model does a task in a language; None: it has to tell the language itself."""
        if task == "translate" and not self.translates:
            return False
        if language is None:
            return self.languages is None or len(self.languages) > 1
        return self.languages is None or language in self.languages


@dataclass(frozen=True, slots=True)
class TierState:
    """A tier now.

    Attributes:
        rtfx: of one replica with all its slots in use.
        queued_s: audio that was sent to it and is not done, but for that of batch priority.
        batch_s: the same of batch priority.
        ready: replicas that answer.
        denied: no more than these can be had now.
    """

    facts: TierFacts
    rtfx: float
    queued_s: float = 0.0
    batch_s: float = 0.0
    ready: int = 0
    denied: bool = False

    @property
    def usd_per_audio_s(self) -> float:
        """When its replicas are busy."""
        return self.facts.usd_per_hour / 3600 / self.rtfx

    def waiting_s(self, chunk_s: float, with_batch: bool = False) -> float:
        """Audio that waits for a slot, if chunks have `chunk_s` seconds on average."""
        queued_s = self.queued_s + (self.batch_s if with_batch else 0.0)
        return max(0.0, queued_s - self.ready * self.facts.slots * chunk_s)

    def wait_s(self, chunk_s: float, with_batch: bool = False) -> float:
        """Until a chunk that is sent to it now gets a slot."""
        if self.ready == 0 and self.denied:
            return math.inf
        if self.ready == 0:
            queued_s = self.queued_s + (self.batch_s if with_batch else 0.0)
            return self.facts.cold_start_s + queued_s / self.rtfx
        return self.waiting_s(chunk_s, with_batch) / (self.ready * self.rtfx)
