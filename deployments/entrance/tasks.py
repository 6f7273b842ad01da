"""What a request asks for, as the task of its run: its file's options, and tiers that may do it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from deployments.errors import OptionError
from deployments.fleet import Priority, Quality, TierFacts
from deployments.options import AUTO, TranscribeOptions
from deployments.replicas.tier_client import TierClient
from deployments.routing.dispatch import Dispatcher
from deployments.routing.router import Ask, candidates
from deployments.tier import TierInfo
from deployments.transcript.cascade import CascadeOptions, Ladder
from deployments.transcript.options import TranscriptionOptions, transcription_options
from engine import ALL_LANGUAGES


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """How chunks get their tiers.

    Args:
        facts, expected_rtfx: of all tiers.
        quality: of requests that name neither a tier nor a quality.
        cascade: when a chunk looks wrong; None: none goes to a better tier.
        patience_s: that a chunk may wait, by priority.
    """

    facts: tuple[TierFacts, ...]
    expected_rtfx: Mapping[str, float]
    quality: Quality = Quality.BALANCED
    cascade: CascadeOptions | None = field(default_factory=CascadeOptions)
    patience_s: Mapping[Priority, float] = field(
        default_factory=lambda: dict(zip(Priority, (0.5, 2.5, 300.0), strict=True))
    )


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done with a file.

    Args:
        wanted: options of the file's transcription.
        detect: whether a model that knows several languages is to tell which one it is.
        ask: what the file's chunks ask of the router.
    """

    wanted: TranscriptionOptions
    detect: bool
    ask: Ask


class Tasks:
    """Makes the tasks of one ingress.

    Args:
        tiers: by name.
        routing: how chunks get their tiers.
        dispatcher: knows the state of all tiers.
    """

    def __init__(
        self, tiers: Mapping[str, TierClient], routing: RoutingOptions, dispatcher: Dispatcher
    ) -> None:
        self._tiers = tiers
        self._routing = routing
        self._dispatcher = dispatcher

    async def make(self, name: str, options: TranscribeOptions) -> Task:
        """The task of a request.

        Args:
            name: of a tier, or `auto`.

        Raises:
            OptionError: what is asked for cannot be done.
        """
        patience_s = self._routing.patience_s[options.priority]
        ask = Ask(task=options.task, priority=options.priority, patience_s=patience_s)
        if name == AUTO:
            return self._auto(options, ask)
        if options.quality is not None:
            raise OptionError(f"quality is for the model {AUTO!r}", "quality")
        if options.task == "translate":
            self._check_translates(name, options.model)
        info = await self._tiers[name].info()
        wanted = transcription_options(options, info)
        return Task(wanted, info.multilingual, replace(ask, tier=name))

    def _check_translates(self, name: str, asked: str) -> None:
        """Raises OptionError for a tier whose model did not learn it: it would answer in the
        language that it hears, or in nonsense."""
        able = [facts.name for facts in self._routing.facts if facts.translates]
        if name not in able:
            what = repr(asked) if asked == name else f"{asked!r} ({name})"
            others = f"these do: {', '.join(able)}" if able else "none here does"
            raise OptionError(f"the model {what} does not translate; {others}", "model")

    def _auto(self, options: TranscribeOptions, ask: Ask) -> Task:
        facts = tuple(facts for facts in self._routing.facts if facts.quality)
        info = fleet_info(facts)
        wanted = transcription_options(options, info)
        if wanted.decoding.language is None and not info.multilingual:
            english = replace(wanted.decoding, language=info.languages[0])
            wanted = replace(wanted, decoding=english)
        quality = options.quality or self._routing.quality
        ask = replace(ask, quality=quality, language=wanted.decoding.language)
        candidates(ask, self._dispatcher.all_states())  # raises if there are none
        if options.context_chunks > 1:
            # Its tokens mean something else to another model, so that it stays on one.
            tier = self._dispatcher.choose(ask)
            return Task(wanted, info.multilingual, replace(ask, tier=tier))
        if quality is Quality.BALANCED and self._routing.cascade is not None:
            wanted = replace(wanted, ladder=Ladder(facts, self._routing.cascade))
        return Task(wanted, info.multilingual, ask)


def fleet_info(facts: Sequence[TierFacts]) -> TierInfo:
    """What a request may ask of tiers of which it does not matter which one does it."""
    names = [facts.languages or frozenset(ALL_LANGUAGES) for facts in facts]
    return TierInfo(
        model=AUTO,
        precision="",
        languages=tuple(sorted(frozenset().union(*names))),
        multilingual=any(facts.can(None, "transcribe") for facts in facts),
        max_slots=0,
    )
