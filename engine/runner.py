"""Runs the model on batches: windows into slots, prompts, and one token for every slot.

Knows tensors and slots; nothing of queues, texts or finished sequences.
"""

from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from engine.audio.features import LogMel
from engine.batching import batch_rows, padded_prompt, read_length
from engine.config import EngineConfig
from engine.cuda_graphs import DecodeGraphs
from engine.decoding.rules import TokenRules
from engine.decoding.sampler import Noise, Sampled, Sampler
from engine.decoding.state import RuleState
from engine.model.kv_cache import KVCache
from engine.model.slots import Slots
from engine.model.whisper import Stage, Whisper
from engine.parallel.group import Group
from engine.parallel.partition import partition
from engine.request import DecodingOptions
from engine.transfer import upload
from engine.weights.checkpoint import Checkpoint


class ModelRunner:
    """A model with its slots on one device.

    Tensors that live as long as the runner, indexed by slot: the key-value cache, `tokens` (the
    last one sampled), `positions` (where it goes), and the state of the token rules.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, group: Group) -> None:
        dims = self.dims = checkpoint.dims
        device = self.device = torch.device(config.device)
        self.formats = config.precision.formats(device)
        self.n_slots = config.max_slots
        self.max_length = min(config.max_length or dims.n_text_ctx, dims.n_text_ctx)
        self.features = LogMel(dims.n_mels, device)
        model = Whisper.load(
            checkpoint.source, dims, Stage.whole(dims), group, device, self.formats
        )
        assert model.encoder is not None and model.decoder is not None
        self.encoder, self.decoder = model.encoder, model.decoder
        n_heads = len(partition(dims.n_text_head, group.size)[group.rank])
        self.cache = KVCache(
            n_layers=dims.n_text_layer,
            n_slots=self.n_slots,
            n_heads=n_heads,
            head_dim=dims.head_dim,
            max_length=self.max_length,
            n_audio_ctx=dims.n_audio_ctx,
            device=device,
            formats=self.formats,
        )
        self.tokenizer = checkpoint.tokenizer
        rules = TokenRules(
            vocab=self.decoder.embedding.vocab,
            suppress=checkpoint.suppress_tokens,
            begin_suppress=checkpoint.begin_suppress_tokens,
            eot=self.tokenizer.eot,
            timestamp_begin=self.tokenizer.timestamp_begin,
            device=device,
        )
        suppressed = {*checkpoint.suppress_tokens, *checkpoint.begin_suppress_tokens}
        self.decoder.embedding.never_choose(sorted(suppressed))
        self.sampler = Sampler(rules, dims.n_vocab, group)
        self.rule_state = RuleState.empty(self.n_slots, device)
        self.tokens = torch.zeros(self.n_slots, dtype=torch.int64, device=device)
        self.positions = torch.zeros(self.n_slots, dtype=torch.int64, device=device)
        self._on_cpu = config.on_cpu
        self._graphs: DecodeGraphs | None = None
        if not config.on_cpu and config.cuda_graphs and group.size == 1:
            state = [self.tokens, self.positions, *self.rule_state.tensors()]
            self._graphs = DecodeGraphs(
                lambda rows, length: self._decode(rows, rows, length, [None] * rows),
                state,
                self.n_slots,
                self.max_length,
            )

    @torch.inference_mode()
    def encode(self, chunks: Seq[npt.NDArray[np.int16]], slots: Seq[int]) -> None:
        """Encode windows as one batch and fill their slots' cross-attention."""
        mel = self.features(chunks)
        self.decoder.fill_cross(self.encoder(mel), self.cache, self._slots(slots))

    @torch.inference_mode()
    def detect_language(self, slot: int) -> dict[str, float]:
        """Probability of each language for the window in a slot, by ISO code."""
        hidden = self._prefill([[self.tokenizer.sot]], [slot])
        logits = self._logits(hidden[:, 0])[:1]
        languages = self.tokenizer.languages
        probabilities = self.sampler.choose_among(logits, list(languages.values()))[0]
        return dict(zip(languages, probabilities.tolist(), strict=True))

    @torch.inference_mode()
    def begin(
        self,
        prompts: Seq[list[int]],
        slots: Seq[int],
        options: Seq[DecodingOptions],
        noise: Seq[Noise | None],
    ) -> tuple[Sampled, torch.Tensor]:
        """Run the prompts of new sequences and sample their first tokens.

        Returns:
            The sampled tokens, and (n,) the probability of no speech.
        """
        hidden = self._prefill(prompts, slots)
        sot = [prompt.index(self.tokenizer.sot) for prompt in prompts]
        rows = torch.arange(len(prompts), device=self.device)
        at_sot = hidden[rows, upload(sot, self.device)]
        lengths = upload([len(prompt) for prompt in prompts], self.device)
        at_end = hidden[rows, lengths - 1]
        sot_logits, logits = self._logits(torch.cat([at_sot, at_end])).chunk(2)
        no_speech = self.sampler.probability(sot_logits, self.tokenizer.no_speech)
        for slot, slot_options in zip(slots, options, strict=True):
            self.rule_state.begin(slot, slot_options, self.tokenizer.timestamp_begin)
        where = self._slots(slots)
        sampled = self.sampler(logits, self.rule_state.select(where), noise)
        self.positions[where] = lengths - 1  # of the prompt's last token; `_record` moves on
        self._record(where, sampled.tokens)
        return sampled, no_speech

    @torch.inference_mode()
    def decode(self, n: int, n_positions: int, noise: Seq[Noise | None]) -> Sampled:
        """Feed each of the first `n` slots its last token and sample the next.

        Args:
            n_positions: positions in use in the fullest slot, that token's included.
        """
        if self._graphs is not None and all(item is None for item in noise):
            return self._graphs(n, n_positions)
        rows = self._rows(n, self.n_slots)
        return self._decode(n, rows, read_length(n_positions, self.max_length), noise)

    def _decode(self, n: int, rows: int, length: int, noise: Seq[Noise | None]) -> Sampled:
        """A step of the first `n` slots in `rows` rows; reads nothing back to the host."""
        positions = self.positions[:n]
        tokens = F.pad(self.tokens[:n], (0, rows - n))
        x = self.decoder.embed(tokens[:, None], F.pad(positions, (0, rows - n))[:, None])
        hidden = self.decoder.decode(x, self.cache, positions, length)
        logits = self.decoder.local_logits(hidden[:, 0])[:n]
        where = slice(0, n)
        sampled = self.sampler(logits, self.rule_state.select(where), noise)
        self._record(where, sampled.tokens)
        return sampled

    def _rows(self, n: int, max_rows: int) -> int:
        """Rows to compute for `n`: on a CPU their number may change the bits."""
        if not self._on_cpu:
            return n
        return batch_rows(n, max_rows, self.formats.product == torch.float32)

    def release(self, slot: int) -> None:
        """Keep an idle slot's rows computing at a harmless place."""
        self.tokens[slot] = 0
        self.positions[slot] = 0

    def _record(self, where: Slots, tokens: torch.Tensor) -> None:
        self.tokens[where] = tokens
        # An idle slot's position must not run past the cache; it is never read.
        self.positions[where] = (self.positions[where] + 1).clamp_(max=self.max_length - 1)
        self.rule_state.advance(where, tokens, self.tokenizer.timestamp_begin)

    def _prefill(self, prompts: Seq[list[int]], slots: Seq[int]) -> torch.Tensor:
        """Prompts, padded at the end, -> (n, padded length, n_text_state). What lies behind a
        prompt's end is overwritten token by token before anything reads it."""
        length = padded_prompt(max(map(len, prompts)))
        eot = self.tokenizer.eot
        padded = [prompt + [eot] * (length - len(prompt)) for prompt in prompts]
        tokens = upload(padded, self.device)
        positions = torch.arange(length, device=self.device).expand_as(tokens)
        x = self.decoder.embed(tokens, positions)
        return self.decoder.prefill(x, self.cache, self._slots(slots))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, n_text_state) -> (n, local ids), computed with the batch's number of rows."""
        n = len(hidden)
        rows = self._rows(n, n)
        return self.decoder.local_logits(F.pad(hidden, (0, 0, 0, rows - n)))[:n]

    def _slots(self, slots: Seq[int]) -> Slots:
        """A view where the slots are contiguous, so that nothing is copied."""
        first = slots[0]
        if list(slots) == list(range(first, first + len(slots))):
            return slice(first, first + len(slots))
        return upload(list(slots), self.device)
