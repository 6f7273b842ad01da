"""Words from short windows beside words from whole ones.

    python -m benchmarks.short_windows run OUT.jsonl --model demo:base [--part tune] [--clips 100]
        [--languages en,es,fr,it,ru] [--margin 128] [--precision int8]
    python -m benchmarks.short_windows report OUT.jsonl

`run` transcribes clips of 0.5 to 20 s (see `clips`), `--clips` of each language, with the whole
window and with a short one, on the same engine, and appends a line for each clip and way; it goes
on where it was stopped. `report` prints word error rates, their difference with its 95 % interval
from a paired bootstrap over clips, the share of clips whose words changed, that of chunks decoded
again, and the time beside that of whole windows, which means something only on a machine that does
nothing else. Margins and rules are chosen on `tune`; `judge` is for looking once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy import LANGUAGES
from benchmarks.short_windows import results
from benchmarks.short_windows.clips import make_clips
from benchmarks.short_windows.results import Line


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    options.command(options)


def run(options: argparse.Namespace) -> None:
    from benchmarks.short_windows.ways import Ways  # slow to import

    known = {(line.name, line.way) for line in results.load(options.out)}
    short = f"short-{options.margin}"
    ways = Ways(options.model, options.precision, options.margin)
    languages = ["en"] if options.model.endswith(".en") else options.languages
    for language in languages:
        for number, clip in enumerate(make_clips(options.part, language, options.clips)):
            # Neither way always comes second, when caches are warm.
            order = ("exact", short) if number % 2 else (short, "exact")
            for way in order:
                if (clip.name, way) not in known:
                    done = ways.transcribe(clip, whole=way == "exact")
                    results.append(options.out, results.score(clip, way, done))
        print(f"{options.out}: {language}", flush=True)


def report(options: argparse.Namespace) -> None:
    lines = results.load(options.out)
    by_way: dict[str, dict[str, Line]] = {}
    for line in lines:
        by_way.setdefault(line.way, {})[line.name] = line
    exact = by_way.pop("exact")
    print("| way | of | clips | WER, short | exact | difference (95 % interval) | clips changed "
          "| chunks again | time |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for way, short in sorted(by_way.items()):
        pairs = [(short[name], exact[name]) for name in short if name in exact]
        keys = dict.fromkeys(key for one, _ in pairs for key in _groups(one))
        for key in keys:
            print(_row(way, key, [pair for pair in pairs if key in _groups(pair[0])]))


def _groups(line: Line) -> tuple[str, ...]:
    return "all", line.language, line.condition, line.length


def _row(way: str, key: str, pairs: Sequence[tuple[Line, Line]]) -> str:
    found = results.compare(pairs)
    changed = sum(short.said != exact.said for short, exact in pairs) / len(pairs)
    n_short = sum(short.n_short for short, _ in pairs)
    again = sum(short.n_again for short, _ in pairs) / max(1, n_short)
    time = sum(short.took_s for short, _ in pairs) / sum(exact.took_s for _, exact in pairs)
    return (
        f"| {way} | {key} | {len(pairs)} | {found.ours:.2f} | {found.theirs:.2f} "
        f"| {found.interval} | {100 * changed:.1f} % | {100 * again:.1f} % | {time:.2f} |"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Words from short windows and from whole ones.")
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="transcribe clips both ways")
    running.add_argument("out", type=Path)
    running.add_argument("--model", required=True)
    running.add_argument("--precision", help="default: the fastest that loses no words")
    running.add_argument("--part", choices=("tune", "judge"), default="tune")
    running.add_argument("--clips", type=int, default=100, help="of each language")
    running.add_argument("--languages", type=lambda text: text.split(","), default=LANGUAGES)
    running.add_argument("--margin", type=int, default=128, help="frames of 20 ms")
    running.set_defaults(command=run)
    reporting = commands.add_parser("report", help="compare them")
    reporting.add_argument("out", type=Path)
    reporting.set_defaults(command=report)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
