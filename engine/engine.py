"""The engine: chunks in, results out, one step at a time.

The engine is synchronous and used by one thread; a replica gives it a thread of its own and
resolves futures. Each step admits waiting chunks into free slots, then decodes one token in every
slot. So chunks join while others decode, and a finished chunk frees its slot at once. Windows are
encoded at the same time, and on a GPU the host reads tokens some steps after they were sampled, so
neither waits for the other.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from engine.config import EngineConfig
from engine.decoding.hypotheses import Row
from engine.decoding.tokenizer import Tokenizer
from engine.errors import EngineError, RequestError
from engine.executor import Executor, LocalExecutor
from engine.fit import fitted_to_device
from engine.precision import default_precision
from engine.request import MAX_TEXTS, Request, Result
from engine.scheduler import Scheduler
from engine.sequence import Sequence as Running
from engine.steps import Begin, Decode
from engine.transfer import Pending
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from engine.window import Window, short_frames
from engine.word_times import align_step

_BESIDE_URGENT = 4
"""On a CPU, slots for others while somebody is urgent. Simulated (benchmarks.live_load), words of
two live speakers beside files come 1.6 s after their end with 4, 2.4 s with 8, 6.6 s with 24."""


@dataclass(frozen=True, slots=True)
class _Launched:
    """Values that were asked for: by which operation, in which round of their group's decoding, and
    to which sequence each row belongs."""

    kind: Literal["detect", "begin", "decode", "align"]
    group: int
    round: int
    rows: list[Running | None]
    values: Pending


class Engine:
    """Whisper on one device, or on a gang of them.

    Args:
        checkpoint: an opened model.
        config: device, precision and batch; refused if it does not fit the device's memory.
        executor: runs the operations; by default this process, with the whole model.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: EngineConfig,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if executor is None:
            config = fitted_to_device(checkpoint.dims, config, checkpoint.adapters)
            executor = LocalExecutor(checkpoint, config)
        self.config = config
        self.model_name = checkpoint.name
        self.dims = checkpoint.dims
        self.tokenizer: Tokenizer = checkpoint.tokenizer
        self._clock = clock
        self.executor = executor
        self._encoding = self.executor.encoding
        self._max_length = config.positions(checkpoint.dims)
        numbered = enumerate(checkpoint.adapters, start=1)
        self._adapters = {"": 0} | {adapter.name: number for number, adapter in numbered}
        # A decoder step on a GPU waits for memory, whatever the number of its rows.
        beside = _BESIDE_URGENT if torch.device(config.device).type == "cpu" else None
        groups = self.executor.n_groups
        self._scheduler = Scheduler(config.max_slots, config.aging_s, groups, beside)
        self._being_encoded: dict[int, Running] = {}
        self._being_detected: dict[int, Running] = {}
        self._ready: dict[int, Running] = {}
        self._running: dict[int, Running] = {}
        self._being_aligned: dict[int, Running] = {}
        self._aligned: list[Running] = []
        self._launched: deque[_Launched] = deque()
        self._rounds = [0] * self.executor.n_groups
        self._ids: set[str] = set()
        self._arrived: list[Request] = []
        self._aborted: list[int] = []
        self._in_step = False
        # The engine time that a sequence in a slot from the start would have used before this step.
        self._share_s = 0.0
        self._step_began_s = 0.0
        self._n_used_in_step = 0

    @classmethod
    def load(
        cls,
        model: str,
        config: EngineConfig | None = None,
        adapters: Mapping[str, str] | None = None,
    ) -> "Engine":
        """Open a model by name and load it; without a config, on the CPU at its default precision.

        Args:
            adapters: folders of adapters, by the names that requests use (`Request.adapter`).

        Raises:
            ModelNotFoundError, WeightsError: the model cannot be found or used.
        """
        if config is None:
            config = EngineConfig(precision=default_precision(torch.device("cpu")))
        return cls(open_checkpoint(model, adapters), config)

    @property
    def n_waiting(self) -> int:
        return self._scheduler.n_waiting + len(self._arrived)

    @property
    def n_running(self) -> int:
        """Sequences in slots: being encoded or decoded."""
        return self._scheduler.n_running

    @property
    def n_used_slots(self) -> int:
        """Slots of these sequences: as many as a chunk has texts."""
        return self._scheduler.n_used

    @property
    def n_used_in_step(self) -> int:
        """Slots that were in use in the last step, those of what it finished, too."""
        return self._n_used_in_step

    @property
    def max_texts(self) -> int:
        """Texts of one chunk that can be decoded side by side."""
        return min(MAX_TEXTS, self._scheduler.most_slots)

    @property
    def has_unfinished(self) -> bool:
        return bool(self._ids or self.n_running)

    def add_request(self, request: Request) -> None:
        """Queue a chunk.

        Raises:
            RequestError: the model cannot do what the request asks, or its id is in use.
        """
        self.tokenizer.check(request.options)
        if request.adapter not in self._adapters:
            raise RequestError(f"there is no adapter {request.adapter!r}")
        if request.request_id in self._ids:
            raise RequestError(f"request id {request.request_id!r} is in use")
        if request.options.n_texts > self.max_texts:
            raise RequestError(
                f"{request.options.n_texts} texts of a chunk need as many slots; there are "
                f"{self.max_texts}"
            )
        if len(request.options.prefix) > self._max_length // 2:
            raise RequestError(f"a prefix has {self._max_length // 2} tokens at most")
        self._ids.add(request.request_id)
        self._arrived.append(request)

    def abort(self, request_id: str) -> bool:
        """Drop a request, which then has no result; False if it is unknown or already finished."""
        if request_id not in self._ids:
            return False
        self._ids.discard(request_id)
        arrived = [r for r in self._arrived if r.request_id != request_id]
        if len(arrived) < len(self._arrived):
            self._arrived = arrived
        elif not self._scheduler.remove(request_id):
            held = self._on_their_way | self._running
            self._aborted += [
                slot for slot, sequence in held.items() if sequence.request.request_id == request_id
            ]
        return True

    def step(self) -> list[Result]:
        """Admit, decode one token in every slot, and return what finished.

        Raises:
            EngineError: an earlier step failed and left the slots in an unknown state.
            GangError: a rank of a gang failed, died or hangs.
        """
        if self._in_step:
            raise EngineError("an earlier step failed: load the engine anew")
        self._in_step = True
        self._step_began_s = self._clock()
        self._begin_step()
        n_decoding = len(self._running) + len(self._being_detected) + len(self._ready)
        joining = self._encoding.collect(n_decoding)
        with self._encoding.beside():
            finished = self._advance(joining)
        self._share_s = self._share_now()
        self._in_step = False
        return finished

    def check(self) -> None:
        """Check that the engine can continue; callable from any thread.

        Raises:
            GangError: a rank of a gang failed, died or hangs.
        """
        self.executor.check()

    def close(self) -> None:
        """Stop whatever was started for the engine."""
        self.executor.close()

    def _begin_step(self) -> None:
        """Take in what arrived, drop what was aborted, and give free slots to waiting requests."""
        now_s = self._clock()
        arrived, self._arrived = self._arrived, []
        aborted, self._aborted = self._aborted, []
        for slot in aborted:
            if slot in self._running:
                self._release(self._running[slot])
            else:  # its slot is still being written; it is dropped after that
                self._on_their_way[slot].aborted = True
        for request in arrived:
            self._scheduler.add(request, now_s)
        admitted = self._scheduler.admit(now_s, self._encoding.room)
        now_s = self._clock()
        new = [
            Running(
                item.request,
                slots,
                item.arrived_s,
                now_s,
                self._frames(item.request),
                self._share_s,
                self._adapters[item.request.adapter],
            )
            for slots, item in admitted
        ]
        self._n_used_in_step = self._scheduler.n_used
        self._being_encoded.update((sequence.slot, sequence) for sequence in new)
        self._encoding.submit(new)

    def _advance(self, joining: Sequence[Running]) -> list[Result]:
        """Take in encoded windows, and advance every slot by a token."""
        self._join(joining)
        self._read_what_is_there()
        self._begin_ready()
        self._read_what_is_there()
        finished = self._finish()
        launched = [group for group in range(len(self._rounds)) if self._may_decode(group)]
        for group in launched:
            self._decode(group)
        if not launched and not finished:
            self._wait()
        self._read_what_is_there()
        return finished + self._finish()

    def _join(self, encoded: Sequence[Running]) -> None:
        """Find out the language of sequences whose windows are encoded."""
        for sequence in encoded:
            del self._being_encoded[sequence.slot]
            options = sequence.request.options
            if sequence.aborted:
                self._scheduler.free(sequence.slots)
            elif options.language is not None and options.task != "detect_language":
                sequence.language = options.language
                self._ready[sequence.slot] = sequence
            elif self.tokenizer.multilingual:
                self._being_detected[sequence.slot] = sequence
                values = self.executor.detect_language(sequence.slot, sequence.adapter)
                self._launched.append(_Launched("detect", 0, -1, [sequence], values))
            else:
                self._know_language(sequence)

    def _know_language(self, sequence: Running) -> None:
        """Continue with a sequence whose language is known."""
        if sequence.aborted:
            self._scheduler.free(sequence.slots)
        elif sequence.request.options.task == "detect_language":
            sequence.finish_reason = "detected"
            sequence.first_token_s = self._clock()
            self._running[sequence.slot] = sequence
        else:
            self._ready[sequence.slot] = sequence

    def _begin_ready(self) -> None:
        """Run the prompts of sequences that have all they need."""
        ready, self._ready = list(self._ready.values()), {}
        for sequence in ready:
            if sequence.aborted:
                self._scheduler.free(sequence.slots)
        for group in range(len(self._rounds)):
            new = [s for s in ready if self._group(s) == group and not s.aborted]
            size = self.config.prompt_limit
            for start in range(0, len(new), size):
                self._begin(group, new[start : start + size])

    def _begin(self, group: int, sequences: list[Running]) -> None:
        for sequence in sequences:
            sequence.prompt = self._prompt(sequence.request, sequence.language)
            wanted = sequence.request.options.max_new_tokens or self.dims.n_text_ctx // 2
            sequence.max_new_tokens = min(wanted, self._room(sequence.prompt))
            self._running[sequence.slot] = sequence
        step = Begin(
            tuple(sequence.prompt for sequence in sequences),
            tuple(sequence.slots for sequence in sequences),
            tuple(sequence.request.options for sequence in sequences),
            tuple(noise for sequence in sequences for noise in sequence.noise()),
            tuple(sequence.adapter for sequence in sequences),
        )
        values = self.executor.begin(step)
        rows: list[Running | None] = [s for s in sequences for _ in s.slots]
        self._keep("begin", group, rows, values)

    def _may_decode(self, group: int) -> bool:
        """Whether a group has sequences, and no earlier step of it has to be read first."""
        return any(self._group(sequence) == group for sequence in self._running.values()) and not (
            any(
                launched.kind == "decode" and launched.group == group and self._is_due(launched)
                for launched in self._launched
            )
        )

    def _decode(self, group: int) -> None:
        n_groups = len(self._rounds)
        sequences = [s for s in self._running.values() if self._group(s) == group]
        n_positions = max(sequence.position for sequence in sequences) + 1
        owners = {slot: sequence for sequence in sequences for slot in sequence.slots}
        noise = {
            slot: noise
            for sequence in sequences
            for slot, noise in zip(sequence.slots, sequence.noise(), strict=True)
        }
        slots = range(group, max(owners) + 1, n_groups)
        rows = [owners.get(slot) for slot in slots]
        searches = tuple(sequence.slots for sequence in sequences if sequence.is_search)
        all_noise = tuple(noise.get(slot) for slot in slots)
        values = self.executor.decode(Decode(group, len(rows), n_positions, all_noise, searches))
        self._rounds[group] += 1
        self._keep("decode", group, rows, values)

    def _keep(
        self,
        kind: Literal["begin", "decode"],
        group: int,
        rows: list[Running | None],
        values: Pending,
    ) -> None:
        for sequence in {id(s): s for s in rows if s is not None}.values():
            sequence.n_sampled += 1
        self._launched.append(_Launched(kind, group, self._rounds[group] - 1, rows, values))

    def _is_due(self, launched: _Launched) -> bool:
        """Whether enough steps were launched after it that it should be read."""
        newest = self._rounds[launched.group] - max(self.config.lag, 1)
        return launched.kind in ("detect", "align") or launched.round <= newest

    def _read_what_is_there(self) -> None:
        """Read the values that are due and have arrived, in order."""
        for launched in list(self._launched):
            if self._is_due(launched):
                if not launched.values.ready:
                    return
                self._read(launched)

    def _wait(self) -> None:
        """Wait for the first values that are due."""
        due = next((item for item in self._launched if self._is_due(item)), None)
        if due is not None:
            self._read(due)

    def _read(self, launched: _Launched) -> None:
        self._launched.remove(launched)
        if launched.kind == "align":
            self._take_attention(launched)
            return
        columns = [column.tolist() for column in launched.values.get()]
        if launched.kind == "detect":
            sequence = launched.rows[0]
            assert sequence is not None
            del self._being_detected[sequence.slot]
            self._set_language(sequence, columns[0])
            self._know_language(sequence)
            return
        if launched.kind == "begin":
            *columns, no_speech = columns
            for sequence, probability in zip(launched.rows, no_speech, strict=True):
                assert sequence is not None
                sequence.no_speech_prob = probability
                sequence.first_token_s = self._clock()
        rows: dict[int, tuple[Running, list[Row]]] = {}
        for sequence, *values in zip(launched.rows, *columns, strict=True):
            if sequence is not None:
                rows.setdefault(id(sequence), (sequence, []))[1].append(Row(*values))
        for sequence, its_rows in rows.values():
            sequence.append_rows(its_rows, self.tokenizer)

    def _set_language(self, sequence: Running, values: Sequence[float]) -> None:
        probabilities = dict(zip(self.tokenizer.languages, values, strict=True))
        if sequence.request.options.languages:
            probabilities = _among(probabilities, sequence.request.options.languages)
        sequence.language = max(probabilities, key=probabilities.__getitem__)
        sequence.language_prob = probabilities[sequence.language]
        if sequence.request.options.task == "detect_language":
            ranked = sorted(probabilities.items(), key=lambda item: item[1], reverse=True)
            sequence.language_probs = tuple(ranked)

    def _finish(self) -> list[Result]:
        """The results of sequences that have ended; their slots are free again. A text whose words
        need times keeps its slots until it has them."""
        ended = [sequence for sequence in self._running.values() if sequence.finish_reason]
        room = self._max_length
        wanting = [sequence for sequence in ended if sequence.wants_words(self.tokenizer, room)]
        self._align(wanting)
        done, self._aligned = [*self._aligned, *(s for s in ended if s not in wanting)], []
        results = []
        for sequence in done:
            now_s = self._clock()
            results.append(sequence.result(self.tokenizer, now_s, self._share_now(now_s)))
            self._ids.discard(sequence.request.request_id)
            self._release(sequence)
        return results

    def _align(self, sequences: list[Running]) -> None:
        """Find out when the words of finished texts were said."""
        for sequence in sequences:
            del self._running[sequence.slot]
            self._being_aligned[sequence.slot] = sequence
        for group in range(len(self._rounds)):
            here = [s for s in sequences if self._group(s) == group]
            # A text may be twice as long as the prompts that memory was planned for.
            size = max(1, self.config.prompt_limit // 2)
            for start in range(0, len(here), size):
                part = here[start : start + size]
                times = [s.word_times for s in part if s.word_times is not None]
                slots, adapters = [s.slot for s in part], [s.adapter for s in part]
                values = self.executor.align(align_step(times, slots, adapters))
                self._launched.append(_Launched("align", group, -1, [*part], values))

    def _take_attention(self, launched: _Launched) -> None:
        for sequence, attention in zip(launched.rows, launched.values.get(), strict=True):
            assert sequence is not None
            del self._being_aligned[sequence.slot]
            if sequence.aborted:
                self._free(sequence)
            else:
                sequence.take_attention(attention.numpy())
                self._aligned.append(sequence)

    def _share_now(self, now_s: float | None = None) -> float:
        took_s = (self._clock() if now_s is None else now_s) - self._step_began_s
        return self._share_s + took_s / max(1, self._n_used_in_step)

    def _release(self, sequence: Running) -> None:
        self._running.pop(sequence.slot, None)
        self._free(sequence)

    def _free(self, sequence: Running) -> None:
        for slot in sequence.slots:
            self.executor.release(slot)
        self._scheduler.free(sequence.slots)

    @property
    def _on_their_way(self) -> dict[int, Running]:
        """Sequences that are not decoded now: it has not begun, or their words get times."""
        return self._being_encoded | self._being_detected | self._ready | self._being_aligned

    def _group(self, sequence: Running) -> int:
        return sequence.slot % len(self._rounds)

    def _frames(self, request: Request) -> int:
        """Frames of the window that the encoder sees of a chunk."""
        whole = self.dims.n_audio_ctx
        wanted = request.window or self.config.window
        if wanted is Window.EXACT or not self.config.has_short_windows:
            return whole
        return short_frames(len(request.pcm), self.config.margin_frames, whole)

    def _prompt(self, request: Request, language: str) -> list[int]:
        options = request.options
        # A prefix takes its room from what stands before it, so that there is always as much left
        # for the text.
        limit = max(0, self._max_length // 2 - 1 - len(options.prefix))
        prompt = self.tokenizer.prompt_tokens(options, limit)
        return [*prompt, *self.tokenizer.sot_sequence(language, options), *options.prefix]

    def _room(self, prompt: list[int]) -> int:
        """Tokens that can be sampled after a prompt. The last one sampled is never written."""
        return self._max_length - len(prompt) + 1


def _among(probabilities: dict[str, float], languages: Sequence[str]) -> dict[str, float]:
    """Probabilities of some languages, given that the language is one of them."""
    total = sum(probabilities[language] for language in languages)
    return {
        language: probabilities[language] / total if total else 1 / len(languages)
        for language in languages
    }
