"""The engine: chunks in, results out, one step at a time.

Synchronous, for one thread; a replica runs it in a thread of its own and resolves futures. Each
step admits waiting chunks into free slots, then decodes one token in every slot, so chunks join
while others decode and a finished chunk frees its slot at once. Windows are encoded beside that,
and on a GPU the host reads tokens some steps after it had them sampled, so that neither waits.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.config import EngineConfig, default_precision
from engine.decoding.tokenizer import Tokenizer
from engine.encode_ahead import make_encoding
from engine.errors import EngineError, RequestError
from engine.header import StepHeader
from engine.parallel.group import Group, SingleRank
from engine.request import Request, Result
from engine.runner import ModelRunner
from engine.scheduler import Scheduler
from engine.sequence import Sequence as Running
from engine.transfer import Download
from engine.weights.checkpoint import Checkpoint, open_checkpoint


@dataclass(frozen=True, slots=True)
class _Launched:
    """Tokens that the device was told to sample: each row's sequence, and the values."""

    step: int
    rows: list[Running | None]
    values: Download


class Engine:
    """Whisper on one device.

    Args:
        checkpoint: an opened model.
        config: device, precision and batch.
        group: the ranks that share the model's tensors.
        clock: seconds, rising. Every rank times its work by it; what it decides is the leader's.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: EngineConfig,
        group: Group | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config = config
        self.model_name = checkpoint.name
        self.dims = checkpoint.dims
        self.tokenizer: Tokenizer = checkpoint.tokenizer
        self._group = group or SingleRank()
        self._clock = clock
        self.runner = ModelRunner(checkpoint, config, self._group)
        self._scheduler = Scheduler(config.max_slots, config.aging_s)
        self._encoding = make_encoding(self._encode, config, self._group)
        self._being_encoded: dict[int, Running] = {}
        self._running: dict[int, Running] = {}
        self._launched: deque[_Launched] = deque()
        self._ids: set[str] = set()
        self._arrived: list[Request] = []
        self._aborted: list[int] = []
        self._step = 0
        self._in_step = False

    @classmethod
    def load(cls, model: str, config: EngineConfig | None = None) -> "Engine":
        """Open a model by name and load it; without a config on the CPU, at its default precision.

        Raises:
            ModelNotFoundError, WeightsError: the model cannot be had or used.
        """
        if config is None:
            config = EngineConfig(precision=default_precision(torch.device("cpu")))
        return cls(open_checkpoint(model), config)

    @property
    def n_waiting(self) -> int:
        return self._scheduler.n_waiting + len(self._arrived)

    @property
    def n_running(self) -> int:
        """Sequences in slots: decoded, or being encoded."""
        return self._scheduler.n_running

    @property
    def has_unfinished(self) -> bool:
        return bool(self._ids or self.n_running)

    def add_request(self, request: Request) -> None:
        """Queue a chunk.

        Raises:
            RequestError: the model cannot do what it asks, or its id is in use.
        """
        self.tokenizer.check(request.options)
        if request.request_id in self._ids:
            raise RequestError(f"request id {request.request_id!r} is in use")
        self._ids.add(request.request_id)
        self._arrived.append(request)

    def abort(self, request_id: str) -> bool:
        """Drop a request; False if it is not here (any more). Its result never comes."""
        if request_id not in self._ids:
            return False
        self._ids.discard(request_id)
        arrived = [r for r in self._arrived if r.request_id != request_id]
        if len(arrived) < len(self._arrived):
            self._arrived = arrived
        elif not self._scheduler.remove(request_id):
            held = self._being_encoded | self._running
            self._aborted += [
                slot for slot, sequence in held.items() if sequence.request.request_id == request_id
            ]
        return True

    def step(self) -> list[Result]:
        """Admit, decode one token in every slot, and return what finished.

        Raises:
            EngineError: an earlier step failed and left the slots in an unknown state.
        """
        if self._in_step:
            raise EngineError("an earlier step failed: load the engine anew")
        self._in_step = True
        now_s = self._begin_step()
        self._admit(now_s)
        joining = self._encoding.collect(len(self._running))
        with self._encoding.beside():
            self._join(joining)
            finished = self._collect()
            if self._running:
                self._decode()
                finished += self._collect()
        self._step += 1
        self._in_step = False
        return finished

    def _begin_step(self) -> float:
        """Agree with the leader, take in what arrived and drop what was aborted; returns the time
        that this step goes by, in seconds."""
        arrived, self._arrived = self._arrived, []
        aborted, self._aborted = self._aborted, []
        own = StepHeader(self._step, round(self._clock() * 1e6), len(arrived), len(aborted))
        now_s = own.broadcast(self._group).now_us / 1e6
        for slot in aborted:
            if slot in self._running:
                self._release(self._running[slot])
            else:  # its slot is being written; it is dropped when that is done
                self._being_encoded[slot].aborted = True
        for request in arrived:
            self._scheduler.add(request, now_s)
        return now_s

    def _admit(self, now_s: float) -> None:
        """Give free slots to waiting requests and have their windows encoded."""
        admitted = self._scheduler.admit(now_s, self._encoding.room)
        now = self._clock()
        new = [Running(item.request, slot, item.arrived_s, now) for slot, item in admitted]
        self._being_encoded.update((sequence.slot, sequence) for sequence in new)
        self._encoding.submit(new)

    def _encode(self, sequences: Sequence[Running]) -> None:
        pcm = [sequence.request.pcm for sequence in sequences]
        self.runner.encode(pcm, [sequence.slot for sequence in sequences])

    def _join(self, encoded: Sequence[Running]) -> None:
        """Run the prompts of sequences whose windows are encoded."""
        for sequence in encoded:
            del self._being_encoded[sequence.slot]
            if sequence.aborted:
                self._scheduler.free(sequence.slot)
        new = [sequence for sequence in encoded if not sequence.aborted]
        self._running.update((sequence.slot, sequence) for sequence in new)
        for sequence in new:
            self._set_language(sequence)
        decoding = [sequence for sequence in new if sequence.finish_reason is None]
        # On a CPU prompts run one by one: the number of rows would change the bits.
        size = 1 if self.config.on_cpu else max(1, len(decoding))
        for start in range(0, len(decoding), size):
            self._begin(decoding[start : start + size])
        for sequence in new:
            sequence.first_token_s = self._clock()

    def _set_language(self, sequence: Running) -> None:
        options = sequence.request.options
        if options.language is not None and options.task != "detect_language":
            sequence.language = options.language
        elif self.tokenizer.multilingual:
            probabilities = self.runner.detect_language(sequence.slot)
            if options.languages:
                probabilities = _among(probabilities, options.languages)
            sequence.language = max(probabilities, key=probabilities.__getitem__)
            sequence.language_prob = probabilities[sequence.language]
        if options.task == "detect_language":
            sequence.finish_reason = "detected"

    def _begin(self, sequences: Sequence[Running]) -> None:
        for sequence in sequences:
            sequence.prompt = self._prompt(sequence.request, sequence.language)
            wanted = sequence.request.options.max_new_tokens or self.dims.n_text_ctx // 2
            sequence.max_new_tokens = min(wanted, self._room(sequence.prompt))
        noise = [sequence.noise() for sequence in sequences]
        sampled, no_speech = self.runner.begin(
            [sequence.prompt for sequence in sequences],
            [sequence.slot for sequence in sequences],
            [sequence.request.options for sequence in sequences],
            noise,
        )
        self._keep(list(sequences), Download(sampled.tokens, sampled.logprobs, no_speech))

    def _decode(self) -> None:
        n = max(self._running) + 1
        by_slot = [self._running.get(slot) for slot in range(n)]
        n_positions = max(sequence.position for sequence in self._running.values()) + 1
        noise = [None if sequence is None else sequence.noise() for sequence in by_slot]
        sampled = self.runner.decode(n, n_positions, noise)
        self._keep(by_slot, Download(sampled.tokens, sampled.logprobs))

    def _keep(self, rows: list[Running | None], values: Download) -> None:
        for sequence in rows:
            if sequence is not None:
                sequence.n_sampled += 1
        self._launched.append(_Launched(self._step, rows, values))

    def _collect(self) -> list[Result]:
        """Read what has come back from the device, and return what is finished."""
        newest = self._step - self.config.lag
        while self._launched and self._launched[0].step <= newest:
            self._read(self._launched.popleft())
        done = [sequence for sequence in self._running.values() if sequence.finish_reason]
        results = []
        for sequence in done:
            results.append(sequence.result(self.tokenizer, self._clock()))
            self._ids.discard(sequence.request.request_id)
            self._release(sequence)
        return results

    def _read(self, launched: "_Launched") -> None:
        tokens, logprobs, *no_speech = (column.tolist() for column in launched.values.get())
        for row, sequence in enumerate(launched.rows):
            if sequence is not None:
                sequence.append(tokens[row], logprobs[row], self.tokenizer.eot)
                if no_speech:
                    sequence.no_speech_prob = no_speech[0][row]

    def _release(self, sequence: Running) -> None:
        del self._running[sequence.slot]
        self.runner.release(sequence.slot)
        self._scheduler.free(sequence.slot)

    def _prompt(self, request: Request, language: str) -> list[int]:
        options = request.options
        limit = self.runner.max_length // 2 - 1
        prompt = self.tokenizer.prompt_tokens(options, limit)
        return prompt + self.tokenizer.sot_sequence(language, options)

    def _room(self, prompt: list[int]) -> int:
        """Tokens that can be sampled after a prompt. The last one sampled is never written."""
        return self.runner.max_length - len(prompt) + 1


def _among(probabilities: dict[str, float], languages: Sequence[str]) -> dict[str, float]:
    """Probabilities of some languages, given that it is one of them."""
    total = sum(probabilities[language] for language in languages)
    return {
        language: probabilities[language] / total if total else 1 / len(languages)
        for language in languages
    }
