"""Which tokens come next, chosen by the last stage that decodes and sent to the others.

The first stage needs the tokens. Every stage needs to know which texts of beam searches go on, as
it holds keys and values of them.
"""

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from engine.decoding.beam_step import Proposals, beam_step, least_moved
from engine.decoding.keyword_bias import NO_SPEECH, OFF, Bias, KeywordTables
from engine.decoding.keyword_graph import KeywordGraph
from engine.decoding.sampler import Noise, RuledLogits, Sampled, Sampler
from engine.decoding.tokenizer import Tokenizer
from engine.model.slots import Slots, n_slots, slot_indices
from engine.parallel.place import Inbound, Place, Wires
from engine.request import DecodingOptions
from engine.slot_bank import SlotBank
from engine.transfer import upload


@dataclass(frozen=True, slots=True)
class _Moves:
    """Slots whose texts go on in others, places in a bank, shape (m,) int64 each."""

    sources: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Coming:
    """What the last stage chose, on its way to an earlier one.

    Attributes:
        tokens: (n,) int64, for the first stage.
        sources: (m,) int64, of the moves of beam searches.
        targets: of these moves.
        length: positions in use.
    """

    group: int
    where: Slots
    tokens: Inbound | None
    sources: Inbound | None
    targets: torch.Tensor | None
    length: int


class Choices:
    """A rank's part in the choice of tokens. Operations come in the same order on all ranks.

    Args:
        sampler: where decoding ends.
    """

    def __init__(
        self,
        place: Place,
        banks: Seq[SlotBank],
        sampler: Sampler | None,
        tokenizer: Tokenizer,
        device: torch.device,
    ) -> None:
        self._place = place
        self._banks = banks
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._device = device
        self._coming: deque[_Coming] = deque()
        self._of_graphs: WeakKeyDictionary[KeywordGraph, KeywordTables] = WeakKeyDictionary()

    def begin(self, bank: SlotBank, place: int, options: DecodingOptions) -> None:
        """Prepare a slot for the tokens of a new text, where decoding ends."""
        bank.rule_state.begin(place, options, self._tokenizer.timestamp_begin)
        graph = self._tokenizer.keyword_graph(options)
        if graph is not None and self._sampler is not None:
            bank.keywords[place] = self._tables(graph)

    def choose(
        self,
        group: int,
        where: Slots,
        logits: torch.Tensor,
        noise: Seq[Noise | None],
        searches: Seq[tuple[int, ...]],
        places: Seq[int],
        length: int = 0,
        no_speech: torch.Tensor | None = None,
    ) -> Sampled:
        """Choose the next token of each row, on the last stage.

        Args:
            where: places in the group's bank, one for each row.
            places: the same, on the host.
            logits: (n, local ids) float32; overwritten.
            searches: the rows of each beam search.
            length: positions that are in use; 0 if this is the first token.
            no_speech: (n,) the probability of no speech, at the first token.
        """
        assert self._sampler is not None, "only the last stage samples"
        bank = self._banks[group]
        if no_speech is not None and bank.keywords:
            bank.rule_state.keyword_state[where] = torch.where(no_speech > NO_SPEECH, OFF, 0)
        biases = _biases(bank, places)
        is_plain = not searches and not biases and all(item is None for item in noise)
        state = bank.rule_state.select(where)
        if is_plain and self._sampler.has_fused_choice:
            return self._recorded(bank, where, self._sampler.likeliest_of(logits, state))
        ruled = self._sampler.rule(logits, state)
        if sum(map(len, searches)) == len(logits):  # all of them are chosen by `_search`
            nothing = logits.new_zeros(len(logits))
            sampled = Sampled(nothing.long(), nothing)
        else:
            sampled = self._sampler(ruled, noise, biases)
        moves = None
        if searches:
            sampled, moves = self._search(
                bank, where, ruled, sampled, searches, biases, length == 0
            )
        if moves is not None and length:  # at first, all texts of a search are the same
            bank.rule_state.copy(moves.sources, moves.targets)
            self._move(bank, moves, length)
            self._send(sampled.tokens, moves.sources)
        else:
            self._send(sampled.tokens, None)
        bank.record(where, sampled, self._tokenizer.timestamp_begin)
        _follow_keywords(bank, places, biases, sampled.tokens)
        return sampled

    def _recorded(self, bank: SlotBank, where: Slots, sampled: Sampled) -> Sampled:
        """Tokens of rows without searches and keywords, told to whoever needs them."""
        self._send(sampled.tokens, None)
        bank.record(where, sampled, self._tokenizer.timestamp_begin)
        return sampled

    def expect(
        self, group: int, where: Slots, searches: Seq[tuple[int, ...]] = (), length: int = 0
    ) -> None:
        """Prepare to hear what the last stage chooses, on an earlier one.

        Args:
            where, length: as in `choose`.
            searches: places in the bank of each beam search; none at the first token.
        """
        last, tokens, sources, targets = self._place.decoders[-1], None, None, None
        if self._place.begins_decoding:
            tokens = self._wires.tokens.expect((n_slots(where),), torch.int64, last)
        if searches:
            in_order = sorted(searches, key=len)  # as `_search` has them
            targets = upload([place for each in in_order for place in each], self._device)
            sources = self._wires.tokens.expect(tuple(targets.shape), torch.int64, last)
        if tokens is not None or sources is not None:
            self._coming.append(_Coming(group, where, tokens, sources, targets, length))

    def take(self, group: int) -> None:
        """Wait for what was chosen for a group, on an earlier stage."""
        while any(coming.group == group for coming in self._coming):
            coming = self._coming.popleft()
            bank = self._banks[coming.group]
            if coming.tokens is not None:
                bank.tokens[coming.where] = coming.tokens.get()
            if coming.sources is not None and coming.targets is not None:
                moves = _Moves(coming.sources.get(), coming.targets)
                self._move(bank, moves, coming.length)

    def _search(
        self,
        bank: SlotBank,
        where: Slots,
        ruled: RuledLogits,
        sampled: Sampled,
        searches: Seq[tuple[int, ...]],
        biases: Seq[Bias],
        is_first: bool,
    ) -> tuple[Sampled, _Moves]:
        """Let beam searches choose in place of the sampler."""
        assert self._sampler is not None, "only the last stage samples"
        tokens, logprobs = sampled.tokens.clone(), sampled.logprobs.clone()
        parents, end_logprobs = torch.zeros_like(tokens), torch.full_like(logprobs, float("-inf"))
        slots = slot_indices(where, self._device)
        sources, targets = [], []
        for n_beams in sorted({len(rows) for rows in searches}):
            here = [list(each) for each in searches if len(each) == n_beams]
            rows = upload(here, self._device)
            flat = [row for each in here for row in each]
            some = [part for bias in biases if (part := bias.among(flat)) is not None]
            is_all = flat == list(range(len(ruled.logits)))
            among = ruled if is_all else ruled.rows(rows.flatten())
            likeliest = self._sampler.likeliest(among, n_beams + 1, some)
            proposals = Proposals(*(found.view(*rows.shape, -1) for found in likeliest))
            places = slots[rows]
            scores = torch.zeros_like(bank.scores[places]) if is_first else bank.scores[places]
            step = beam_step(scores, proposals, self._tokenizer.eot, is_first)
            if not rows.is_cuda:  # a GPU copies all rows, see `_move`
                step = least_moved(step)
            tokens[rows], logprobs[rows] = step.tokens, step.logprobs
            parents[rows], end_logprobs[rows] = step.parents, step.end_logprobs
            bank.scores[places] = step.scores
            sources.append(places.gather(1, step.parents).flatten())
            targets.append(places.flatten())
        moves = _Moves(torch.cat(sources), torch.cat(targets))
        return Sampled(tokens, logprobs, parents, end_logprobs), moves

    def _tables(self, graph: KeywordGraph) -> KeywordTables:
        if graph not in self._of_graphs:
            self._of_graphs[graph] = KeywordTables(graph, self._device)
        return self._of_graphs[graph]

    def _move(self, bank: SlotBank, moves: _Moves, length: int) -> None:
        """Copy keys and values of texts to the slots in which they go on."""
        sources, targets = moves.sources, moves.targets
        if not sources.is_cuda:  # a GPU would have to wait for the host to know which
            moved = sources != targets
            sources, targets = sources[moved], targets[moved]
        if len(targets):
            bank.cache.copy(sources, targets, length)

    def _send(self, tokens: torch.Tensor, sources: torch.Tensor | None) -> None:
        for index, stage in enumerate(self._place.decoders[:-1]):
            if index == 0:
                self._wires.tokens.send(tokens, stage)
            if sources is not None:
                self._wires.tokens.send(sources, stage)

    @property
    def _wires(self) -> Wires:
        assert self._place.wires is not None, "a rank alone hands on nothing"
        return self._place.wires


def _biases(bank: SlotBank, places: Seq[int]) -> list[Bias]:
    """The rows that have keywords, those with the same ones together."""
    rows_of: dict[KeywordTables, list[int]] = {}
    if bank.keywords:
        for row, place in enumerate(places):
            if place in bank.keywords:
                rows_of.setdefault(bank.keywords[place], []).append(row)
    if not rows_of:
        return []
    states = bank.rule_state.keyword_state[upload(list(places), bank.tokens.device)]
    return [Bias.of(tables, rows, states) for tables, rows in rows_of.items()]


def _follow_keywords(
    bank: SlotBank, places: Seq[int], biases: Seq[Bias], tokens: torch.Tensor
) -> None:
    """Follow the paths of keywords with the tokens that were chosen."""
    for bias in biases:
        at = upload([places[row] for row in bias.rows], tokens.device)
        states = bank.rule_state.keyword_state[at]  # others than before, where beams moved
        bank.rule_state.keyword_state[at] = bias.tables.advance(states, tokens[bias.index])
