"""Models that decode each chunk once, however often its result is requested."""

import hashlib
import os
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from deployments.messages import Chunk, ChunkResult, to_chunk_result, to_request
from engine import Engine, EngineConfig


class Decoders:
    """Engines by quality, 1 and up.

    Args:
        models: from the smallest to the largest.
        keep: a folder of results, which may come from any process and are not computed again, so
            use it for one commit and one machine. `pickle` reads it, so it must be your own.
    """

    def __init__(
        self, models: Sequence[str], config: EngineConfig, keep: Path | None = None
    ) -> None:
        self._models = models
        self._config = config
        self._engines = [Engine.load(model, config) for model in models]
        self._known: dict[str, ChunkResult] = {}
        self._keep = keep
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)

    def decode(self, chunks: Iterable[Chunk], at_least: int) -> list[ChunkResult]:
        """Decode each chunk with the first model above the quality that it has tried, but at least
        `at_least`."""
        wanted = []
        for chunk in chunks:
            quality = max(at_least, (chunk.above or 0) + 1)
            wanted.append((chunk, quality, self._name(chunk, quality)))
        for quality in range(1, len(self._engines) + 1):
            self._decode_missing(quality, {n: c for c, q, n in wanted if q == quality})
        return [
            replace(self._known[name], key=chunk.key, model=str(quality))
            for chunk, quality, name in wanted
        ]

    def _name(self, chunk: Chunk, quality: int) -> str:
        """The name of a result: a hash of everything that it depends on."""
        told = repr((self._models[quality - 1], self._config, chunk.options))
        return hashlib.sha256(told.encode() + chunk.pcm.tobytes()).hexdigest()

    def _decode_missing(self, quality: int, chunks: dict[str, Chunk]) -> None:
        engine = self._engines[quality - 1]
        for name, chunk in chunks.items():
            if not self._is_known(name):
                engine.add_request(replace(to_request(chunk), request_id=name))
        while engine.has_unfinished:
            for result in engine.step():
                self._add(result.request_id, to_chunk_result(result, self._models[quality - 1]))

    def _is_known(self, name: str) -> bool:
        if name not in self._known and self._keep is not None and (self._keep / name).exists():
            self._known[name] = pickle.loads((self._keep / name).read_bytes())
        return name in self._known

    def _add(self, name: str, result: ChunkResult) -> None:
        self._known[name] = result
        if self._keep is not None:
            # Written whole or not at all, because a run may be stopped at any time.
            part = self._keep / f".{os.getpid()}"
            part.write_bytes(pickle.dumps(result))
            part.rename(self._keep / name)
