"""Turns a request into the task of its run: options for the file, and a request to the router."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from deployments.errors import NoTierError, OptionError
from deployments.fleet import Priority, Quality, TierFacts
from deployments.options import AUTO, BEST_BEAM_SIZE, TranscribeOptions
from deployments.replicas.tier_client import TierClient
from deployments.routing.dispatch import Dispatcher
from deployments.routing.router import Ask, candidates
from deployments.tier import TierInfo
from deployments.transcript.cascade import CascadeOptions, Ladder
from deployments.transcript.options import TranscriptionOptions, transcription_options
from engine import ALL_LANGUAGES


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """How chunks are assigned to tiers.

    Args:
        facts: facts of all tiers.
        expected_rtfx: expected speed of each tier's replicas.
        quality: quality of requests that name neither a tier nor a quality.
        cascade: when a chunk's text looks wrong; None: no chunk goes to a better tier.
        patience_s: seconds that a chunk may wait, by priority.
        adapters: name of an adapter -> name of the tier whose replicas have it.
    """

    facts: tuple[TierFacts, ...]
    expected_rtfx: Mapping[str, float]
    quality: Quality = Quality.BALANCED
    cascade: CascadeOptions | None = field(default_factory=CascadeOptions)
    patience_s: Mapping[Priority, float] = field(
        default_factory=lambda: dict(zip(Priority, (0.5, 2.5, 300.0), strict=True))
    )
    adapters: Mapping[str, str] = field(default_factory=dict)

    def named(self, ask: Ask, model: str) -> Ask:
        """The request to the router for a tier or an adapter that the caller names."""
        if model in self.adapters:
            return replace(ask, tier=self.adapters[model], adapter=model)
        return replace(ask, tier=model)


@dataclass(frozen=True, slots=True)
class Task:
    """How to transcribe a file.

    Args:
        wanted: options of the file's transcription.
        detect: whether the model is multilingual, so that it can detect the file's language.
        ask: what the file's chunks ask of the router.
    """

    wanted: TranscriptionOptions
    detect: bool
    ask: Ask


class Tasks:
    """Makes the tasks of one ingress.

    Args:
        tiers: clients of the tiers, by name.
        routing: how chunks are assigned to tiers.
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
            name: name of a tier or an adapter, or `auto`.

        Raises:
            OptionError: the cluster cannot do what the request asks for.
        """
        patience_s = self._routing.patience_s[options.priority]
        ask = Ask(task=options.task, priority=options.priority, patience_s=patience_s)
        if name == AUTO:
            return self._auto(options, ask)
        if options.quality is not None:
            raise OptionError(f"quality is for the model {AUTO!r}", "quality")
        if options.task == "translate":
            self._check_translates(self._routing.adapters.get(name, name), options.model)
        ask = self._routing.named(ask, name)
        info = await self._tiers[ask.tier or name].info()
        wanted = transcription_options(options, info)
        return Task(wanted, info.multilingual, ask)

    def _check_translates(self, name: str, asked: str) -> None:
        """Raise OptionError for a tier whose model was not trained to translate. Such a model would
        answer in the language of the audio, or with nonsense."""
        able = [facts.name for facts in self._routing.facts if facts.translates]
        if name not in able:
            what = repr(asked) if asked == name else f"{asked!r} ({name})"
            others = f"these do: {', '.join(able)}" if able else "none here does"
            raise OptionError(f"the model {what} does not translate; {others}", "model")

    def _auto(self, options: TranscribeOptions, ask: Ask) -> Task:
        facts = tuple(facts for facts in self._routing.facts if facts.quality)
        if not facts:
            raise NoTierError(f"{AUTO!r} chooses by quality, which no tier has: name a tier")
        info = fleet_info(facts)
        wanted = transcription_options(options, info)
        if wanted.decoding.language is None and not info.multilingual:
            decoding = replace(wanted.decoding, language=_only_language(info))
            wanted = replace(wanted, decoding=decoding)
        quality = options.quality or self._routing.quality
        ask = replace(ask, quality=quality, language=wanted.decoding.language)
        able = candidates(ask, self._dispatcher.all_states())
        if quality is Quality.BEST and options.beam_size is None:
            n_beams = min(BEST_BEAM_SIZE, *(tier.facts.max_texts for tier in able))
            wanted = replace(wanted, decoding=replace(wanted.decoding, beam_size=n_beams))
        if wanted.context_chunks > 1:
            # The context consists of tokens, which mean something else to another model. Therefore
            # the request stays on one tier.
            tier = self._dispatcher.choose(ask)
            return Task(wanted, info.multilingual, replace(ask, tier=tier))
        if quality is Quality.BALANCED and self._routing.cascade is not None:
            wanted = replace(wanted, ladder=Ladder(facts, self._routing.cascade))
        return Task(wanted, info.multilingual, ask)


def _only_language(info: TierInfo) -> str:
    """The language of tiers that cannot detect one."""
    if len(info.languages) > 1:
        raise OptionError(
            f"language must be given: no tier can detect it; there are tiers for "
            f"{', '.join(info.languages)}",
            "language",
        )
    return info.languages[0]


def fleet_info(facts: Sequence[TierFacts]) -> TierInfo:
    """What a request may ask for if any of these tiers may do the work."""
    names = [facts.languages or frozenset(ALL_LANGUAGES) for facts in facts]
    return TierInfo(
        model=AUTO,
        precision="",
        languages=tuple(sorted(frozenset().union(*names))),
        multilingual=any(facts.can(None, "transcribe") for facts in facts),
        max_slots=0,
        max_texts=min((each.max_texts for each in facts), default=0),
    )
