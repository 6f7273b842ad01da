"""Sends what real clients send, and prints a table of expected and actual answers.

python -m tests.field [--murmur PATH] [--url URL] [--only WORDS] [--http | --command-line]

It uses only HTTP and the command line, so it can try any version of the program. To compare two
versions, keep one run with `--json FILE` and put it beside a later one with `--compare FILE`.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.field.case import BOTH, COMMAND_LINE, HTTP, Case, World
from tests.field.cases import all_cases
from tests.field.clients import CommandLine, Http
from tests.field.run import run
from tests.field.server import Server
from tests.field.table import Row, read_earlier, to_json, to_markdown


def main() -> int:
    """Returns 1 if a row is wrong."""
    args = _parser().parse_args()
    cases = [case for case in all_cases() if _is_wanted(case, args.only)]
    if args.list:
        print("\n".join(case.name for case in cases))
        return 0
    ways = [way for way in BOTH if args.way in (None, way)]
    earlier = None if args.compare is None else read_earlier(args.compare)
    rows: list[Row] = []
    with _world(args.murmur.absolute(), args.url, HTTP in ways) as world:
        for row in run(cases, world, ways):
            rows.append(row)
            mark = {True: "ok", False: "WRONG", None: "--"}[row.is_right]
            more = "" if row.is_right else f": {'; '.join(row.faults) or row.got}"
            print(f"{mark:5} {row.key} ({row.taken_s:.1f} s){more}", file=sys.stderr, flush=True)
    line = to_json(rows, _version(args.murmur))
    print(to_markdown(rows, earlier))
    print(line)
    if args.json is not None:
        args.json.write_text(line + "\n", encoding="utf-8")
    return 1 if any(row.is_right is False for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.field", description=__doc__)
    parser.add_argument(
        "--murmur",
        type=Path,
        default=Path(sys.executable).parent / "murmur",
        help="the command to try, and to serve with (%(default)s)",
    )
    parser.add_argument("--url", help="of a server that is there; default: start one and end it")
    parser.add_argument(
        "--only", nargs="*", metavar="WORD", help="cases with one of these in their names"
    )
    parser.add_argument("--list", action="store_true", help="print the cases' names")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--http", dest="way", action="store_const", const=HTTP)
    way.add_argument("--command-line", dest="way", action="store_const", const=COMMAND_LINE)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the JSON line there, too")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="an earlier run's JSON, put beside this one"
    )
    return parser


def _is_wanted(case: Case, only: list[str] | None) -> bool:
    return not only or any(word in case.name for word in only)


@contextmanager
def _world(murmur: Path, url: str | None, is_http: bool) -> Iterator[World]:
    server = Server(murmur) if is_http and url is None else None
    try:
        url = server.url if server else url
        http = Http(url) if url and is_http else None
        with tempfile.TemporaryDirectory(prefix="field-") as folder:
            yield World(Path(folder), CommandLine(murmur, Path(folder)), http, server)
    finally:
        if server:
            server.stop()


def _version(murmur: Path) -> str:
    """The commit that the command belongs to if it lies in a work tree, else its path."""
    git = ["git", "-C", str(murmur.absolute().parent), "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True)
    return done.stdout.strip() or str(murmur)


if __name__ == "__main__":
    sys.exit(main())
