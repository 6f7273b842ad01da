"""transformers' Whisper as the reference: its forward pass and logits processors, in one pass.

Its `generate` seeks and encodes again, so it is no oracle for a single chunk. Murmur's readers load
the weights; everything else is transformers' own.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import GenerationConfig, WhisperFeatureExtractor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from benchmarks.transformers_model import transformers_model
from engine import Checkpoint, DecodingOptions, Engine

EXCUSED_MARGIN = 1e-3
"""A first difference is excused only if the oracle itself nearly chose another token."""


def logit_error(engine: Engine, oracle: "Oracle", pcm: np.ndarray) -> float:
    """The largest difference between the engine's logits and the oracle's, for the same mel, with
    the oracle's tokens as input to both (teacher forcing)."""
    runner = engine.executor.runner
    tokens = [oracle.tokenizer.sot, *oracle.decode(pcm, DecodingOptions()).tokens]
    mel = oracle.mel(pcm)
    expected = oracle.logits(oracle.encode(mel), tokens)
    with torch.inference_mode():
        runner.fill(runner.encoder(mel), [0])
        hidden = runner._prefill([tokens], [0])[0, : len(tokens)]
        logits = runner.decoder.local_logits(hidden)
    return float((logits - expected).abs().max())


@dataclass
class OracleResult:
    """Tokens without the end token, and the margin by which the oracle chose at each step."""

    tokens: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    language: str = "en"


class Oracle:
    """One checkpoint in transformers, float32 on the CPU."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = checkpoint.tokenizer
        self.model = transformers_model(checkpoint)
        self.features = WhisperFeatureExtractor(feature_size=checkpoint.dims.n_mels)
        self._last: tuple[np.ndarray, torch.Tensor] | None = None

    def mel(self, pcm: np.ndarray) -> torch.Tensor:
        """int16 (n,) -> (1, n_mels, 3000)."""
        samples = pcm.astype(np.float32) / 32_768.0
        output = self.features(samples, sampling_rate=16_000, return_tensors="pt")
        return output.input_features

    @torch.inference_mode()
    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        return self.model.model.encoder(mel).last_hidden_state

    @torch.inference_mode()
    def logits(self, audio_features: torch.Tensor, tokens: list[int]) -> torch.Tensor:
        """Teacher-forced: (len(tokens), n_vocab)."""
        hidden = self.model.model.decoder(
            input_ids=torch.tensor([tokens]), encoder_hidden_states=audio_features
        ).last_hidden_state
        return self.model.proj_out(hidden)[0]

    @torch.inference_mode()
    def decode(self, pcm: np.ndarray, options: DecodingOptions) -> OracleResult:
        """Greedy decoding of one chunk."""
        audio_features = self._encode_once(pcm)
        result = OracleResult()
        result.language = options.language or self._language(audio_features)
        prompt = self.tokenizer.prompt_tokens(options, 223)
        sot_index = len(prompt)
        prompt = prompt + self.tokenizer.sot_sequence(result.language, options)
        processors = self._processors(len(prompt), options)
        limit = min(options.max_new_tokens or 224, 448 - len(prompt) + 1)
        cache, ids, feed, total = None, list(prompt), prompt, 0.0
        for step in range(limit):
            output = self.model.model.decoder(
                input_ids=torch.tensor([feed]),
                encoder_hidden_states=audio_features,
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            logits = self.model.proj_out(output.last_hidden_state)[0]
            if step == 0:
                result.no_speech_prob = torch.softmax(logits[sot_index], -1)[
                    self.tokenizer.no_speech
                ].item()
            before = self._before_mass_rule(processors, ids, logits[-1:])
            scores = processors(torch.tensor([ids]), logits[-1:].clone())
            token = int(scores[0].argmax())
            total += torch.log_softmax(scores[0], -1)[token].item()
            if token == self.tokenizer.eot:
                result.margins.append(self._margin(scores, before, options))
                break
            result.tokens.append(token)
            result.margins.append(self._margin(scores, before, options))
            ids.append(token)
            feed = [token]
        result.avg_logprob = total / (len(result.tokens) + 1)
        return result

    def _encode_once(self, pcm: np.ndarray) -> torch.Tensor:
        """Encode a clip, or reuse its encoding: a clip is decoded with many options in a row."""
        if self._last is None or self._last[0] is not pcm:
            self._last = pcm, self.encode(self.mel(pcm))
        return self._last[1]

    def _language(self, audio_features: torch.Tensor) -> str:
        if not self.tokenizer.multilingual:
            return "en"
        logits = self.logits(audio_features, [self.tokenizer.sot])[0]
        languages = self.tokenizer.languages
        return max(languages, key=lambda code: logits[languages[code]].item())

    def _processors(self, begin: int, options: DecodingOptions) -> LogitsProcessorList:
        checkpoint = self.checkpoint
        processors = [
            SuppressTokensLogitsProcessor(list(checkpoint.suppress_tokens)),
            SuppressTokensAtBeginLogitsProcessor(list(checkpoint.begin_suppress_tokens), begin),
        ]
        if options.timestamps:
            config = GenerationConfig(eos_token_id=self.tokenizer.eot)
            config.no_timestamps_token_id = self.tokenizer.no_timestamps
            config.max_initial_timestamp_index = options.max_initial_timestamp_index
            processors.append(WhisperTimeStampLogitsProcessor(config, begin_index=begin))
        return LogitsProcessorList(processors)

    def _before_mass_rule(
        self, processors: LogitsProcessorList, ids: list[int], logits: torch.Tensor
    ) -> torch.Tensor:
        """Scores under every rule except the one that weighs all timestamps against text."""
        scores = logits.clone()
        for processor in processors:
            if isinstance(processor, WhisperTimeStampLogitsProcessor):
                processor._detect_timestamp_from_logprob = False
                scores = processor(torch.tensor([ids]), scores)
                processor._detect_timestamp_from_logprob = True
            else:
                scores = processor(torch.tensor([ids]), scores)
        return scores

    def _margin(
        self, scores: torch.Tensor, before: torch.Tensor, options: DecodingOptions
    ) -> float:
        """The smaller of two differences: between the best and the second-best score, and between
        the log-probability of all timestamps and that of the best text token."""
        top = scores[0].topk(2).values
        margin = (top[0] - top[1]).item()
        if options.timestamps:
            logprobs = torch.log_softmax(before[0].float(), -1)
            mass = logprobs[self.tokenizer.timestamp_begin :].logsumexp(-1)
            text = logprobs[: self.tokenizer.timestamp_begin].max()
            if torch.isfinite(mass) and torch.isfinite(text):
                margin = min(margin, (mass - text).abs().item())
        return margin


@dataclass
class Comparison:
    """How Murmur's tokens compare to the oracle's, over many chunks."""

    n_tokens: int = 0
    excused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    smallest_margin: float = float("inf")

    def add(self, label: str, tokens: tuple[int, ...], oracle: OracleResult) -> None:
        """Compare one chunk up to its first difference, including the end token."""
        end = -1
        ours, theirs = [*tokens, end], [*oracle.tokens, end]
        self.n_tokens += len(theirs)
        self.smallest_margin = min([self.smallest_margin, *oracle.margins])
        if len(oracle.margins) < len(theirs):  # cut off by the limit: there was no end token
            ours, theirs = ours[:-1], theirs[:-1]
        for index, (our, their) in enumerate(zip(ours, theirs, strict=False)):
            if our != their:
                margin = oracle.margins[index]
                line = f"{label}: token {index}: {our} for {their}, margin {margin:.2e}"
                (self.excused if margin < EXCUSED_MARGIN else self.wrong).append(line)
                return
        if len(ours) != len(theirs):
            self.wrong.append(f"{label}: {len(ours)} tokens for {len(theirs)}")

    def check(self) -> None:
        """Assert at most 1 excused difference in 1,000 tokens, and no other difference."""
        for line in self.excused:
            print("excused:", line)
        assert not self.wrong, "\n".join(self.wrong)
        assert len(self.excused) <= self.n_tokens / 1_000, "\n".join(self.excused)
