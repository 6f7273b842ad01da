"""Runs a rank's layers on batches: windows into slots, prompts, and one token for every slot.

The runner knows tensors and slots, but no queues, texts or finished sequences. A rank that holds
the whole model does each operation completely; in a pipeline each stage does its part and passes
the result on.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from engine.aligner import Aligner
from engine.audio.features import LogMel
from engine.batching import batch_rows, padded_prompt, read_length
from engine.choices import Choices
from engine.config import EngineConfig
from engine.cuda_graphs import DecodeGraphs
from engine.decoding.rules import TokenRules
from engine.decoding.sampler import Noise, Sampled, Sampler
from engine.model.decoder import DecoderStage, Tap
from engine.model.encoder import EncoderStage
from engine.model.slots import Slots
from engine.model.whisper import Whisper
from engine.parallel.low_rank import Chosen
from engine.parallel.place import Place, Wires
from engine.parallel.stages import group_sizes
from engine.precision import Offload
from engine.slot_bank import SlotBank
from engine.steps import Align, Begin, Decode
from engine.transfer import upload
from engine.weights.checkpoint import Checkpoint
from engine.weights.host_memory import giving_back_memory
from engine.window import FRAME_SAMPLES


class ModelRunner:
    """A rank's layers with their slots, on one device.

    Slots form groups, one for each stage that decodes, so that every stage has work: slot `s` is
    number `s // n_groups` of group `s % n_groups`. Each operation concerns slots of one group.
    Ranks of a gang must get the same operations in the same order.

    Args:
        place: the rank's place in the gang; by default it holds the whole model.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: EngineConfig, place: Place | None = None
    ) -> None:
        dims = self.dims = checkpoint.dims
        self.place = place or Place.alone(dims)
        device = self.device = torch.device(config.device)
        self.formats = config.formats
        self.max_length = config.positions(dims)
        sizes = group_sizes(self.place.stages, config.max_slots)
        self.n_groups = len(sizes)
        self.tokenizer = checkpoint.tokenizer
        self.features = LogMel(dims.n_mels, device)
        group, stage = self.place.group, self.place.stage
        with giving_back_memory():
            self._model = Whisper.load(
                checkpoint.source,
                dims,
                stage,
                group,
                device,
                self.formats,
                config.offload,
                checkpoint.adapters,
            )
            checkpoint.source.release()
            self._sampler = self._make_sampler(checkpoint) if self.place.ends_decoding else None
        self.banks = [
            SlotBank(
                n_slots,
                dims,
                self.place,
                self.max_length,
                device,
                self.formats,
                config.has_short_windows,
            )
            for n_slots in (sizes if self.place.stage.decoder else ())
        ]
        self._choices = Choices(self.place, self.banks, self._sampler, self.tokenizer, device)
        heads = checkpoint.alignment_heads
        self._aligner = Aligner(self.place, heads, dims.n_text_head, device)
        is_alone = len(self.place.stages) * group.size == 1
        # Ranks must agree on the number of rows, whatever their CPUs.
        takes_any_rows = is_alone and stage.decoder and self.decoder.takes_any_rows
        self._pads_rows = config.on_cpu and not takes_any_rows
        self._has_adapters = bool(checkpoint.adapters)
        self._on_cpu = config.on_cpu
        self._graphs: DecodeGraphs | None = None
        # Streamed layers arrive on another stream than the one that a graph is captured on.
        is_resident = config.offload is not Offload.ALL
        if not config.on_cpu and config.cuda_graphs and is_alone and is_resident:
            self._graphs = self._make_graphs()

    @torch.inference_mode()
    def encode(
        self,
        chunks: Seq[npt.NDArray[np.int16]],
        slots: Seq[int],
        n_frames: int | None = None,
        adapter: int = 0,
    ) -> None:
        """Encode windows as one batch and fill their slots, on a rank with the whole model.

        Args:
            n_frames: of each window; None: n_audio_ctx.
            adapter: the number of the windows' adapter, 0 for none.
        """
        layers = range(self.dims.n_audio_layer)
        self.fill(self.encode_part(chunks, layers, n_frames, adapter), slots, adapter)

    @torch.inference_mode()
    def encode_part(
        self,
        x: torch.Tensor | Seq[npt.NDArray[np.int16]],
        layers: range,
        n_frames: int | None = None,
        adapter: int = 0,
    ) -> torch.Tensor:
        """Run windows through some of the stage's encoder layers.

        Args:
            x: the windows' samples, where encoding begins; else (batch, frames, n_audio_state)
                from the previous layer. It is overwritten.
            layers: counted from the stage's first one.
            n_frames: of each window, where encoding begins; None: n_audio_ctx.
            adapter: as in `encode`.
        """
        if not isinstance(x, torch.Tensor):
            x = self.features(x, (n_frames or self.dims.n_audio_ctx) * FRAME_SAMPLES)
        states: torch.Tensor = self.encoder(x, layers, adapter or None)
        return states

    @torch.inference_mode()
    def fill(self, states: torch.Tensor, slots: Seq[int], adapter: int = 0) -> None:
        """Compute the cross-attention of encoded windows, (batch, frames, n_audio_state), into
        slots of any groups.

        Args:
            adapter: as in `encode`.
        """
        for group in range(self.n_groups):
            rows = [row for row, slot in enumerate(slots) if slot % self.n_groups == group]
            if rows:
                where = self._where([slots[row] for row in rows])
                part = states if len(rows) == len(slots) else states[rows]
                self.decoder.fill_cross(part, self.banks[group].cache, where, adapter or None)

    @torch.inference_mode()
    def detect_language(self, slot: int, adapter: int = 0) -> torch.Tensor | None:
        """Run the start token alone. Where decoding ends, returns (n_languages,) probabilities in
        the order of the tokenizer's languages."""
        hidden = self._prefill([[self.tokenizer.sot]], [slot], adapters=[adapter])
        if hidden is None:
            return None
        logits = self._logits(hidden[:, 0])[:1]
        return self.sampler.choose_among(logits, list(self.tokenizer.languages.values()))[0]

    @torch.inference_mode()
    def begin(self, step: Begin) -> tuple[Sampled, torch.Tensor] | None:
        """Run prompts and sample first tokens.

        Returns:
            Where decoding ends: the sampled tokens, and (n,) the probability of no speech, for each
            slot of `step`.
        """
        windows = [slots[0] for slots in step.slots]
        group, bank = windows[0] % self.n_groups, self._bank(windows[0])
        self._choices.take(group)
        hidden = self._prefill(step.prompts, windows, adapters=step.adapters)
        self._fork(bank, step)
        owners = [owner for owner, slots in enumerate(step.slots) for _ in slots]
        all_slots = [slot for slots in step.slots for slot in slots]
        where = self._where(all_slots)
        lengths = [len(prompt) for prompt in step.prompts]
        bank.place_prompts(where, upload([lengths[i] for i in owners], self.device))
        if hidden is None:
            self._choices.expect(group, where)
            return None
        sot = upload([prompt.index(self.tokenizer.sot) for prompt in step.prompts], self.device)
        rows = torch.arange(len(lengths), device=self.device)
        at_both = torch.cat([hidden[rows, sot], hidden[rows, upload(lengths, self.device) - 1]])
        sot_logits, logits = self._logits(at_both).chunk(2)
        no_speech = self.sampler.probability(sot_logits, self.tokenizer.no_speech)
        if len(owners) > len(lengths):
            row_of_slot = upload(owners, self.device)
            logits, no_speech = logits[row_of_slot], no_speech[row_of_slot]
        searches = _searches_among(step)
        places = [slot // self.n_groups for slot in all_slots]
        sampled = self._choices.choose(
            group, where, logits, step.noise, searches, places, no_speech=no_speech
        )
        return sampled, no_speech

    @torch.inference_mode()
    def decode(self, step: Decode) -> Sampled | None:
        """Sample a token in each slot.

        Returns:
            Where decoding ends: the sampled tokens.
        """
        bank = self.banks[step.group]
        is_plain = not step.searches and all(item is None for item in step.noise)
        if self._graphs is not None and is_plain and not (bank.has_followers or bank.keywords):
            return self._graphs(step.n, step.n_positions)
        rows = self._rows(step.n, bank.n_slots)
        length = read_length(step.n_positions, self.max_length)
        places = [tuple(slot // self.n_groups for slot in slots) for slots in step.searches]
        return self._decode(step.group, step.n, rows, length, step.noise, places)

    @torch.inference_mode()
    def align(self, step: Align) -> list[torch.Tensor] | None:
        """Run finished texts once more, over what their slots hold of them.

        Returns:
            Where decoding ends: `Aligner.maps`.
        """
        self._choices.take(step.slots[0] % self.n_groups)
        reading = self._aligner.begin(step)
        self._prefill(step.texts, step.slots, reading.taps, step.adapters)
        return self._aligner.maps(reading)

    def release(self, slot: int) -> None:
        """A slot's sequence has ended."""
        self._bank(slot).release(slot // self.n_groups)

    @property
    def n_bytes(self) -> int:
        """Bytes of weights and slots on the device."""
        return self._model.n_bytes + sum(bank.cache.n_bytes for bank in self.banks)

    @property
    def encoder(self) -> EncoderStage:
        assert self._model.encoder is not None, "this stage has no encoder layer"
        return self._model.encoder

    @property
    def decoder(self) -> DecoderStage:
        assert self._model.decoder is not None, "this stage has no decoder layer"
        return self._model.decoder

    @property
    def sampler(self) -> Sampler:
        assert self._sampler is not None, "only the last stage samples"
        return self._sampler

    def _decode(
        self,
        group: int,
        n: int,
        rows: int,
        length: int,
        noise: Seq[Noise | None],
        searches: Seq[tuple[int, ...]] = (),
    ) -> Sampled | None:
        """Decode a step of the first `n` slots in `rows` rows; reads nothing back to the host.

        Args:
            searches: places in the bank.
        """
        bank, where = self.banks[group], slice(0, n)
        self._choices.take(group)
        if self.place.begins_decoding:
            x = self.decoder.embed(*bank.batch(n, rows))
        else:
            x = self._receive_hidden(rows, 1)
        adapters: Chosen = None
        if self._has_adapters and (bank.has_adapted or not self._on_cpu):
            # A GPU always computes them: what is captured in a graph must serve every batch.
            adapters = bank.adapters_of(n, rows)
        windows, positions = bank.windows_of(n), bank.positions[:n]
        hidden = self.decoder.decode(x, bank.cache, positions, length, windows, adapters)
        bank.advance(where)
        if not self.place.ends_decoding:
            self._send_hidden(hidden)
            self._choices.expect(group, where, searches, length)
            return None
        logits = self.decoder.local_logits(hidden[:, 0])[:n]
        return self._choices.choose(group, where, logits, noise, searches, range(n), length)

    def _prefill(
        self,
        prompts: Seq[list[int]],
        slots: Seq[int],
        taps: Mapping[int, Tap] = MappingProxyType({}),
        adapters: Seq[int] = (),
    ) -> torch.Tensor | None:
        """Prompts, padded at the end, -> (n, padded length, n_text_state) where decoding ends. The
        padding's keys and values are overwritten token by token before anything reads them."""
        length = padded_prompt(max(map(len, prompts)))
        if self.place.begins_decoding:
            eot = self.tokenizer.eot
            padded = [prompt + [eot] * (length - len(prompt)) for prompt in prompts]
            tokens = upload(padded, self.device)
            positions = torch.arange(length, device=self.device).expand_as(tokens)
            x = self.decoder.embed(tokens, positions)
        else:
            x = self._receive_hidden(len(prompts), length)
        cache, where = self._bank(slots[0]).cache, self._where(slots)
        chosen = upload(list(adapters), self.device) if any(adapters) else None
        hidden = self.decoder.prefill(x, cache, where, taps, chosen)
        if self.place.ends_decoding:
            return hidden
        self._send_hidden(hidden)
        return None

    def _fork(self, bank: SlotBank, step: Begin) -> None:
        """Prepare the slots of new sequences. Further ones begin as the first ones of theirs."""
        adapters = step.adapters or (0,) * len(step.prompts)
        sequences = zip(step.prompts, step.slots, step.options, adapters, strict=True)
        for prompt, slots, options, adapter in sequences:
            window, *others = (slot // self.n_groups for slot in slots)
            bank.adapt([window, *others], adapter)
            for place in (window, *others):
                self._choices.begin(bank, place, options)
            if others:
                targets = upload(others, self.device)
                bank.cache.copy(torch.full_like(targets, window), targets, len(prompt))
                bank.follow(others, window)

    def _send_hidden(self, hidden: torch.Tensor) -> None:
        self._wires.hidden.send(hidden, self.place.index + 1)

    def _receive_hidden(self, rows: int, length: int) -> torch.Tensor:
        shape = (rows, length, self.dims.n_text_state)
        return self._wires.hidden.expect(shape, self.formats.dtype, self.place.index - 1).get()

    def _rows(self, n: int, max_rows: int) -> int:
        """Rows to compute for `n` sequences: on a CPU their number may change the bits."""
        if not self._pads_rows:
            return n
        return batch_rows(n, max_rows, self.formats.product == torch.float32)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, n_text_state) -> (n, local ids), computed with the batch's number of rows."""
        n = len(hidden)
        rows = self._rows(n, n)
        padded = F.pad(hidden, (0, 0, 0, rows - n)) if rows > n else hidden
        return self.decoder.local_logits(padded)[:n]

    def _bank(self, slot: int) -> SlotBank:
        return self.banks[slot % self.n_groups]

    def _where(self, slots: Seq[int]) -> Slots:
        """The places of slots in their group; a slice if they are contiguous, so that nothing is
        copied."""
        indices = [slot // self.n_groups for slot in slots]
        first = indices[0]
        if indices == list(range(first, first + len(indices))):
            return slice(first, first + len(indices))
        return upload(indices, self.device)

    @property
    def _wires(self) -> Wires:
        assert self.place.wires is not None, "a rank alone hands on nothing"
        return self.place.wires

    def _make_sampler(self, checkpoint: Checkpoint) -> Sampler:
        rules = TokenRules(
            vocab=self.decoder.embedding.vocab,
            suppress=checkpoint.suppress_tokens,
            begin_suppress=checkpoint.begin_suppress_tokens,
            eot=self.tokenizer.eot,
            timestamp_begin=self.tokenizer.timestamp_begin,
            device=self.device,
        )
        suppressed = {*checkpoint.suppress_tokens, *checkpoint.begin_suppress_tokens}
        self.decoder.embedding.never_choose(sorted(suppressed))
        return Sampler(rules, self.dims.n_vocab, self.place.group)

    def _make_graphs(self) -> DecodeGraphs:
        bank = self.banks[0]

        def step(rows: int, length: int) -> Sampled:
            sampled = self._decode(0, rows, rows, length, [None] * rows)
            assert sampled is not None
            return sampled

        state = [bank.tokens, bank.positions, *bank.rule_state.tensors()]
        return DecodeGraphs(step, state, bank.n_slots, self.max_length)


def _searches_among(step: Begin) -> list[tuple[int, ...]]:
    """The rows of each beam search, where the sequences' slots are rows in order."""
    searches, row = [], 0
    for slots, options in zip(step.slots, step.options, strict=True):
        if len(slots) > 1 and options.temperature == 0.0:
            searches.append(tuple(range(row, row + len(slots))))
        row += len(slots)
    return searches
