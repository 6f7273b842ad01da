"""What fine-tuning brings: invented names over a telephone, and what general speech loses.

    python -m benchmarks.finetune make DATA [--per-name 12] [--general 150]
    python -m benchmarks.finetune train DATA --out RUNS --method lora [--steps 50] [--batches 6] ...
    python -m benchmarks.finetune judge DATA RUNS/lora RUNS/full [--words WORDS]
    python -m benchmarks.finetune killed DATA --out RUNS [--steps 12] [--kills 3]

`make` writes speech with 30 invented product names (see `corpus`). `train` lets tiny.en learn them
with `murmur finetune`. `judge` looks once at the part that nothing was chosen by, before and after,
by voice; with `--words`, a folder of `benchmarks.words make --part judge`, at general speech too,
with the 95 % interval of the difference. `killed` lets the same run twice, and kills the second
with SIGKILL on its way: both must end with the same loss. Prints tables, then one JSON line.

Needs Debian's flite, espeak-ng, pocketsphinx-testdata and asterisk-core-sounds-en with its -wav.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.finetune import corpus
from benchmarks.words import results
from benchmarks.words.corpus import recordings

MODEL = "demo:tiny.en"
RATES = {"lora": 4e-4, "full": 3e-5}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    options.command(options)


def make(options: argparse.Namespace) -> None:
    corpus.make(options.data, options.per_name, options.general, options.seed)


def train(options: argparse.Namespace) -> None:
    output = options.out / options.method
    path = _write_settings(options, output, {})
    raise SystemExit(subprocess.run(_command(path)).returncode)


def killed(options: argparse.Namespace) -> None:
    """The same run undisturbed, and killed on its way."""
    changes = {"checkpoint_every": 2, "validation": []}
    plain, disturbed = options.out / "undisturbed", options.out / "killed"
    subprocess.run(_command(_write_settings(options, plain, changes)), check=True)
    path = _write_settings(options, disturbed, changes)
    points = [options.steps * (n + 1) // (options.kills + 1) for n in range(options.kills)]
    for step in points:
        _kill_at(step, path, disturbed)
    subprocess.run(_command(path), check=True)
    last = [_losses(each)[-1] for each in (plain, disturbed)]
    same = _losses(plain) == _losses(disturbed)
    print("| run | loss of the last step |\n|---|---|")
    print(f"| undisturbed | {last[0]!r} |\n| killed {options.kills} times | {last[1]!r} |")
    print(json.dumps({"losses": last, "every_step_equal": same, "killed_after": points}))


def judge(options: argparse.Namespace) -> None:
    models = [MODEL, *(str(run / "model") for run in options.runs)]
    names = [MODEL, *(run.name for run in options.runs)]
    products = [_of_products(model, options.data / "judge", options.scratch) for model in models]
    voices = list(products[0])
    print("| model | " + " | ".join(f"names, {voice}" for voice in voices) + " |")
    print("|---" * (len(voices) + 1) + "|")
    for name, rates in zip(names, products, strict=True):
        print(f"| {name} | " + " | ".join(f"{rates[voice]:.2f}" for voice in voices) + " |")
    found: dict[str, Any] = {"names": dict(zip(names, products, strict=True))}
    if options.words is not None:
        found["general"] = _print_general(options.words, names, models)
    print(json.dumps(found))


def _of_products(model: str, folder: Path, scratch: Path) -> dict[str, float]:
    """Word error rate in percent, in all and by voice."""
    from engine import open_checkpoint
    from training.evaluation import measure
    from training.manifest import Row, read_manifest
    from training.recordings import Recordings, prepare
    from training.world import World

    def set_of(rows: list[Row]) -> Recordings:
        return Recordings(prepare(rows, scratch, "en"))

    rows = read_manifest(folder)
    voices = sorted({row.audio.stem.split("-", 1)[1] for row in rows})
    unseen = corpus.UNSEEN.replace(":", "-")
    sets = {"all": set_of(rows)} | {
        voice + (" (not in training)" if voice == unseen else ""): set_of(
            [row for row in rows if row.audio.stem.split("-", 1)[1] == voice]
        )
        for voice in voices
    }
    checkpoint = open_checkpoint(model)
    found = measure(checkpoint, checkpoint.source, sets, World(torch.device("cpu")))
    return {name: words.rate for name, words in found.items()}


def _print_general(
    folder: Path, names: Sequence[str], models: Sequence[str]
) -> dict[str, dict[str, float]]:
    from benchmarks.systems import Murmur, murmur_config

    files = recordings(folder, ["en"], [])
    scores = []
    for model in models:
        system = Murmur(model, murmur_config("int8"), context_chunks=1)
        said = [" ".join(s.text for s in system.transcribe(f.path, "en")) for f in files]
        scores.append([results.score(f, text) for f, text in zip(files, said, strict=True)])
    print("\n| model | general WER, % | difference (95 % interval) | words |\n|---|---|---|---|")
    table = {}
    for name, score in zip(names, scores, strict=True):
        d = results.compare(score, scores[0])
        interval = f"{d.difference:+.2f} ({d.low:+.2f} to {d.high:+.2f})"
        print(f"| {name} | {d.ours:.2f} | {interval} | {d.words} |")
        table[name] = {"wer": d.ours, "difference": d.difference, "low": d.low, "high": d.high}
    return table


def _write_settings(options: argparse.Namespace, output: Path, changes: dict[str, Any]) -> Path:
    data = options.data.absolute()
    settings = {
        "model": MODEL,
        "output": str(output.absolute()),
        "train": [str(data / "train")],
        "validation": [
            {"name": "names", "manifest": str(data / "tune")},
            {"name": "general", "manifest": str(data / "general"), "max_rise": 0.5},
        ],
        "method": options.method,
        "optimiser": {"learning_rate": options.rate or RATES[options.method]},
        "steps": options.steps,
        "batch_size": 1,
        "accumulate": options.batches,
        "precision": options.precision,
        "threads": options.threads,
        "windows": {"packed": 0.9},
        "augment": {
            "telephone": 0.6, "noise": 0.3, "speed": 0.08, "gain_db": 6,
            "mask_frequencies": 8, "mask_frames": 60,
        },
        "evaluate_every": options.evaluate_every or options.steps,
        "checkpoint_every": 5,
        "seed": options.seed,
        "licence": "CC-BY-SA (Asterisk's prompts)",
    }  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings | changes, sort_keys=False), encoding="utf-8")
    return path


def _command(settings: Path) -> list[str]:
    return [sys.executable, "-m", "serve.commands.cli", "finetune", str(settings)]


def _kill_at(step: int, settings: Path, output: Path) -> None:
    """Start the run, and kill it as soon as it has done that step."""
    with subprocess.Popen(_command(settings)) as run:
        while not _steps(output) or _steps(output)[-1] < step:
            if run.poll() is not None:
                raise SystemExit(f"the run ended before step {step}")
            time.sleep(0.05)
        run.kill()


def _records(output: Path) -> list[dict[str, Any]]:
    path = output / "history.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if record["kind"] == "step"]


def _steps(output: Path) -> list[int]:
    return [record["step"] for record in _records(output)]


def _losses(output: Path) -> list[float]:
    return [record["loss"] for record in _records(output)]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What fine-tuning brings, and what it costs.")
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make", help="write made speech")
    making.add_argument("data", type=Path)
    making.add_argument("--per-name", type=int, default=12)
    making.add_argument("--general", type=int, default=150)
    making.add_argument("--seed", default="1")
    making.set_defaults(command=make)
    for command, method, steps in ((train, None, 50), (killed, "lora", 12)):
        running = commands.add_parser(command.__name__)
        running.add_argument("data", type=Path)
        running.add_argument("--out", type=Path, required=True)
        running.add_argument(
            "--method", choices=sorted(RATES), default=method, required=method is None
        )
        running.add_argument("--steps", type=int, default=steps)
        running.add_argument("--batches", type=int, default=6, help="windows of a step")
        running.add_argument("--evaluate-every", type=int, default=None, help="steps")
        running.add_argument("--rate", type=float, default=None, help="peak learning rate")
        running.add_argument("--precision", default="bfloat16")
        running.add_argument("--threads", type=int, default=1)
        running.add_argument("--kills", type=int, default=3)
        running.add_argument("--seed", type=int, default=0)
        running.set_defaults(command=command)
    judging = commands.add_parser("judge", help="word errors of the part that nothing saw")
    judging.add_argument("data", type=Path)
    judging.add_argument("runs", type=Path, nargs="+")
    judging.add_argument("--words", type=Path, default=None)
    judging.add_argument("--scratch", type=Path, default=Path("/tmp/murmur-judge"))
    judging.set_defaults(command=judge)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
