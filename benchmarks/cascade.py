"""What a cascade gains: word errors and price of a small model, a large one, and the small one with
the large one behind it, for each threshold at which a chunk goes up.

    python -m benchmarks.cascade --audio DIR [--small ...] [--large ...] [--noises ...]
                                 [--hopeless ...] [--keep KEPT] [--plot STEM]

DIR is as for `benchmarks.accuracy`, with English and, for babble, other languages. The English
recording is transcribed clean and with noise: white, babble (the other languages, all at once) or
music (Debian's asterisk-moh-opsound-wav), at each signal-to-noise ratio, in dB. Each model decodes
every chunk once, with the options of the cluster's own tiers. Then `Transcription` is replayed for
each threshold and each limit of the hopeless, so that the results differ in the choice alone. KEPT,
for one commit and one machine, stores the decoded chunks: an interrupted run continues from there,
and processes may share it, each with some of the noises. Prices are the time that each model used,
at the same price per hour.

`closed` is the share of the difference in errors between small and large that is gone. `random` is
what as many chunks, drawn at random, would close on average: their share of all chunks.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from benchmarks import scoring
from benchmarks.accuracy import Recording, load_recording
from benchmarks.decoders import Decoders
from deployments.audio.reading import read_audio
from deployments.fleet import TierFacts
from deployments.messages import Pcm
from deployments.transcript.cascade import CascadeOptions, Ladder
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.options import TranscriptionOptions
from deployments.transcript.piece import Piece
from deployments.transcript.transcription import Transcription
from engine import SAMPLE_RATE, DecodingOptions, EngineConfig, Precision
from training.pictures import save_picture

THRESHOLDS = "0.5,0.6,0.65,0.7,0.74,0.76,0.78,0.8,0.82,0.84,0.86,0.88,0.9,1.0"
NOISES = ",".join(
    f"{kind}:{snr_db}" for kind in ("white", "babble", "music") for snr_db in (20, 15, 10, 5, 0)
)
Noise = npt.NDArray[np.float64]
MUSIC = Path("/usr/share/asterisk/moh")


@dataclass(frozen=True)
class File:
    """A recording, clean or with noise."""

    name: str
    reference: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Row:
    """One setup over all files. `escalated` counts chunks, `device_s` seconds of an engine."""

    way: str
    min_token_prob: float | None
    hopeless_token_prob: float | None
    wer: float
    errors: int
    words: int
    n_chunks: int
    escalated: float
    reasons: dict[str, int]
    device_s: float
    by_file: dict[str, float]
    closed: float | None = None


@dataclass(frozen=True)
class Played:
    """A file's text in one setup, and what it took."""

    text: str
    n_chunks: int
    reasons: tuple[str, ...]
    device_s: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    files = [_cut(name, ref, pcm) for name, ref, pcm in _recordings(options)]
    config = EngineConfig(precision=options.precision, max_slots=options.slots)
    decoders = Decoders((options.small, options.large), config, options.keep)
    small = _play("small", None, files, decoders, 1)
    large = _play("large", None, files, decoders, 2)
    choices = [CascadeOptions(t, hopeless_token_prob=h)
               for h in options.hopeless for t in options.thresholds]  # fmt: skip
    rows = [_play("cascade", choice, files, decoders, 1) for choice in choices]
    rows = [_with_closed(row, small, large) for row in (small, *rows, large)]
    print(
        "| way | min_token_prob | hopeless_token_prob | WER | errors | escalated | closed | random "
        "| device s |"
    )
    print("|---" * 9 + "|")
    for row in rows:
        print(_line(row))
    print()
    for name in rows[0].by_file:
        print(f"{name:>10}: small {small.by_file[name]:.4f}, large {large.by_file[name]:.4f}")
    print(json.dumps({"rows": [asdict(row) for row in rows]}))
    if options.plot:
        _plot(rows, options.plot)


def _play(
    way: str,
    choice: CascadeOptions | None,
    files: Sequence[File],
    decoders: Decoders,
    at_least: int,
) -> Row:
    ladder = None if choice is None else Ladder(_tiers(), choice)
    played = {file.name: _transcribe(file, ladder, decoders, at_least) for file in files}
    rates = {f.name: scoring.wer(f.reference, played[f.name].text, "en") for f in files}
    reasons = [reason for each in played.values() for reason in each.reasons]
    n_chunks = sum(each.n_chunks for each in played.values())
    errors, words = (sum(getattr(r, n) for r in rates.values()) for n in ("errors", "length"))
    return Row(
        way=way,
        min_token_prob=None if choice is None else choice.min_token_prob,
        hopeless_token_prob=None if choice is None else choice.hopeless_token_prob,
        wer=errors / words,
        errors=errors,
        words=words,
        n_chunks=n_chunks,
        escalated=len(reasons) / n_chunks,
        reasons={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        device_s=sum(each.device_s for each in played.values()),
        by_file={name: rate.rate for name, rate in rates.items()},
    )


def _tiers() -> tuple[TierFacts, ...]:
    return tuple(
        TierFacts(str(quality), quality, None, False, "cpu", 1.0, 1, 1, 1, 0.0)
        for quality in (1, 2)
    )


def _transcribe(file: File, ladder: Ladder | None, decoders: Decoders, at_least: int) -> Played:
    wanted = TranscriptionOptions(
        decoding=DecodingOptions(language="en"), fallback=FallbackOptions(), ladder=ladder
    )
    transcription = Transcription(file.name, wanted, detect=False)
    todo = [*transcription.take(file.pieces), *transcription.end(())]
    n_chunks, device_s = 0, 0.0
    while todo:
        n_chunks += sum(chunk.above is None for chunk in todo)
        results = decoders.decode(todo, at_least)
        device_s += sum(result.device_s for result in results)
        todo = [chunk for result in results for chunk in transcription.accept(result).chunks]
    transcript = transcription.transcript()
    reasons = tuple(escalation.reason for escalation in transcript.escalations)
    return Played(transcript.text, n_chunks, reasons, device_s)


def _with_closed(row: Row, small: Row, large: Row) -> Row:
    gap = small.errors - large.errors
    return replace(row, closed=(small.errors - row.errors) / gap if gap > 0 else None)


def _line(row: Row) -> str:
    limits = [
        "" if limit is None else f"{limit:g}"
        for limit in (row.min_token_prob, row.hopeless_token_prob)
    ]
    closed = "-" if row.closed is None else f"{100 * row.closed:.0f} %"
    chance = f"{100 * row.escalated:.0f} %" if row.way == "cascade" else ""
    return (
        f"| {row.way} | {' | '.join(limits)} | {100 * row.wer:.2f} % | {row.errors} "
        f"| {100 * row.escalated:.1f} % | {closed} | {chance} | {row.device_s:.1f} |"
    )


def _recordings(options: argparse.Namespace) -> Iterable[tuple[str, str, Pcm]]:
    recording = load_recording(options.audio, "en")
    reference = " ".join(segment.text for segment in recording.segments)
    clean, _ = soundfile.read(recording.path, dtype="int16")
    yield "clean", reference, clean
    for kind, snr_db in options.noises:
        rng = np.random.default_rng([options.seed, len(kind)])
        noise = _NOISES[kind](options.audio, len(clean), rng)
        yield f"{kind}:{snr_db:g}", reference, _mixed(clean, noise, snr_db, recording)


def _mixed(
    clean: Pcm, noise: Noise, snr_db: float,
    recording: Recording,
) -> Pcm:  # fmt: skip
    """Add noise at the ratio below the power of the speech, which is measured without pauses."""
    speech = np.concatenate(
        [
            clean[round(s.start_s * SAMPLE_RATE) : round(s.end_s * SAMPLE_RATE)]
            for s in recording.segments
        ]
    ).astype(np.float64)
    gain = np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    mixed = clean + gain * noise
    # Turn the volume down rather than clip.
    mixed *= min(1.0, 32_000 / np.abs(mixed).max())
    whole: npt.NDArray[np.int16] = mixed.round().astype(np.int16)
    return whole


def _white(audio: Path, n: int, rng: np.random.Generator) -> Noise:
    return rng.standard_normal(n)


def _babble(audio: Path, n: int, rng: np.random.Generator) -> Noise:
    """Other languages, each twice from different places, so that pauses are filled."""
    voices = [soundfile.read(p)[0] for p in sorted(audio.glob("*.wav")) if p.stem != "en"]
    if not voices:
        raise SystemExit(f"babble needs recordings of other languages in {audio}")
    starts = rng.integers(0, 10**6, (2, len(voices)))
    rolled = (
        np.resize(np.roll(v, s), n) for row in starts for v, s in zip(voices, row, strict=True)
    )
    return np.asarray(np.sum(list(rolled), axis=0), np.float64)


def _music(audio: Path, n: int, rng: np.random.Generator) -> Noise:
    files = sorted(MUSIC.glob("*.wav"))
    if not files:
        raise SystemExit(f"music needs Debian's asterisk-moh-opsound-wav: nothing in {MUSIC}")
    pieces = [block for file in files for block in read_audio(file)]
    return np.resize(np.concatenate(pieces).astype(np.float64), n)


_NOISES: dict[
    str,
    Callable[[Path, int, np.random.Generator], Noise],
] = {"white": _white, "babble": _babble, "music": _music}


def _cut(name: str, reference: str, pcm: Pcm) -> File:
    cutter = Transcription(name, TranscriptionOptions(), detect=False)
    return File(name, reference, (*cutter.cut(pcm), *cutter.cut_end()))


def _plot(rows: Sequence[Row], stem: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "murmur"  # the same file from the same numbers
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    cascades = [r for r in rows if r.way == "cascade"]
    first = [r for r in cascades if r.hopeless_token_prob == cascades[0].hopeless_token_prob]
    steps = sorted(first, key=lambda r: r.escalated)
    axes.plot([100 * r.escalated for r in steps], [100 * r.wer for r in steps], "o-")
    for r in steps:
        axes.annotate(f"{r.min_token_prob:g}", (100 * r.escalated, 100 * r.wer), fontsize=7,
                      textcoords="offset points", xytext=(4, 4))  # fmt: skip
    ends = [r for r in rows if r.way != "cascade"]
    axes.plot([0, 100], [100 * r.wer for r in ends], "--", color="grey", label="drawn by lot")
    axes.set(xlabel="chunks that go up (%)", ylabel="WER (%)", title="min_token_prob")
    axes.grid(alpha=0.3)
    axes.legend()
    save_picture(figure, stem)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> list[float]:
        return [float(number) for number in text.split(",") if number.strip()]

    def noises(text: str) -> list[tuple[str, float]]:
        pairs = [item.strip().partition(":") for item in text.split(",") if item.strip()]
        for kind, _, _ in pairs:
            if kind not in _NOISES:
                raise argparse.ArgumentTypeError(f"{kind!r} is not one of {', '.join(_NOISES)}")
        return [(kind, float(snr_db)) for kind, _, snr_db in pairs]

    parser = argparse.ArgumentParser(description="What a cascade gains.")
    parser.add_argument("--audio", type=Path, required=True, help="folder of LANG.wav, LANG.json")
    parser.add_argument("--small", default="demo:tiny.en")
    parser.add_argument("--large", default="demo:base")
    parser.add_argument("--precision", type=Precision, default=Precision.INT8)
    parser.add_argument("--slots", type=int, default=24)
    parser.add_argument("--noises", type=noises, default=NOISES, help="KIND:DB, ...")
    parser.add_argument("--thresholds", type=numbers, default=THRESHOLDS)
    parser.add_argument(
        "--hopeless",
        type=numbers,
        default=[CascadeOptions().hopeless_token_prob],
        help="hopeless_token_prob, of which the first is drawn",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder of what was decoded")
    parser.add_argument("--plot", type=Path, help="where to draw, without the suffix")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
