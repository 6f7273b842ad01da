"""The slots that are decoded as one batch, as tensors on the device."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from engine.config import ModelDimensions
from engine.decoding.keyword_bias import KeywordTables
from engine.decoding.sampler import Sampled
from engine.decoding.state import RuleState
from engine.model.kv_cache import CacheSizes, KVCache
from engine.model.slots import Slots
from engine.parallel.partition import partition
from engine.parallel.place import Place
from engine.precision import NumberFormats


class SlotBank:
    """What a stage stores per slot.

    Attributes:
        cache: keys and values of the stage's layers; `short_windows`: windows in it may be short.
        tokens: the last token sampled, shape (n_slots,) int64; only where decoding begins.
        positions: the position of that token, shape (n_slots,) int64.
        rule_state: state of the token rules; only where decoding ends.
        windows: the slot whose window a slot's tokens attend to, shape (n_slots,) int64.
        scores: of the texts of beam searches (`BeamStep.scores`), shape (n_slots,) float64; only
            where decoding ends.
        keywords: of slots that have any; only where decoding ends.
        adapters: the number of each slot's adapter, 0 for none, shape (n_slots,) int64.
    """

    def __init__(
        self,
        n_slots: int,
        dims: ModelDimensions,
        place: Place,
        max_length: int,
        device: torch.device,
        formats: NumberFormats,
        short_windows: bool = False,
    ) -> None:
        self.n_slots = n_slots
        self.max_length = max_length
        group = place.group
        sizes = CacheSizes(
            n_layers=len(place.stage.decoder),
            n_slots=n_slots,
            n_heads=len(partition(dims.n_text_head, group.size)[group.rank]),
            head_dim=dims.head_dim,
            max_length=max_length,
            n_audio_ctx=dims.n_audio_ctx,
            n_state=dims.n_audio_state,
            may_be_short=short_windows,
        )
        self.cache = KVCache(sizes, device, formats)
        self.tokens = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self.positions = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self.rule_state = RuleState.empty(n_slots, device)
        self.windows = torch.arange(n_slots, device=device)
        self.scores = torch.zeros(n_slots, dtype=torch.float64, device=device)
        self.keywords: dict[int, KeywordTables] = {}
        self.adapters = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self._adapted: set[int] = set()
        self._followers: set[int] = set()

    def windows_of(self, n: int) -> Slots:
        """The windows of the first `n` slots: a range if each has its own."""
        return self.windows[:n] if self._followers else slice(0, n)

    @property
    def has_followers(self) -> bool:
        """Whether a slot's tokens attend to another one's window."""
        return bool(self._followers)

    def follow(self, slots: Sequence[int], window: int) -> None:
        """Let the tokens of slots attend to the window of another one."""
        for slot in slots:
            self.windows[slot] = window
        self._followers.update(slots)

    @property
    def has_adapted(self) -> bool:
        """Whether a slot has an adapter."""
        return bool(self._adapted)

    def adapt(self, slots: Sequence[int], adapter: int) -> None:
        """Give slots an adapter, by its number."""
        if adapter:
            for slot in slots:
                self.adapters[slot] = adapter
            self._adapted.update(slots)

    def adapters_of(self, n: int, rows: int) -> torch.Tensor:
        """The numbers of the first `n` slots' adapters, (rows,) with none for padding rows."""
        adapters = self.adapters[:n]
        return F.pad(adapters, (0, rows - n)) if rows > n else adapters

    def batch(self, n: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and positions of the first `n` slots, (rows, 1) each, including padding rows."""
        tokens, positions = self.tokens[:n], self.positions[:n]
        if rows > n:
            padding = (0, rows - n)
            tokens, positions = F.pad(tokens, padding), F.pad(positions, padding)
        return tokens[:, None], positions[:, None]

    def place_prompts(self, where: Slots, lengths: torch.Tensor) -> None:
        """Set positions so that the first sampled token follows the prompt."""
        self.positions[where] = lengths

    def advance(self, where: Slots) -> None:
        """Move on after a token was written. An idle slot's position must not run past the cache;
        it is never read."""
        self.positions[where] = (self.positions[where] + 1).clamp_(max=self.max_length - 1)

    def record(self, where: Slots, sampled: Sampled, timestamp_begin: int) -> None:
        """Record a token sampled in each of these slots."""
        self.tokens[where] = sampled.tokens
        self.rule_state.advance(where, sampled.tokens, timestamp_begin)

    def release(self, slot: int) -> None:
        """Let an idle slot's row, which is still computed, write to a harmless place."""
        self.tokens[slot] = 0
        self.positions[slot] = 0
        self.keywords.pop(slot, None)
        if slot in self._adapted:
            self._adapted.discard(slot)
            self.adapters[slot] = 0
        if slot in self._followers:
            self._followers.discard(slot)
            self.windows[slot] = slot
