"""The `murmur` command.

Parses arguments and dispatches; the commands are imported when they run, so that help is quick.
"""

import argparse
import io
import sys
from collections.abc import Sequence

from serve.commands.exit_codes import EXIT_INTERRUPTED, EXIT_OK

_FILE_HELP = "settings, YAML; default: the environment and defaults alone"
FORMATS = ("txt", "json", "verbose_json", "srt", "vtt")
# Those of `engine.precision`, which takes seconds to import.
PRECISIONS = (
    *("float32", "bfloat16", "float16", "int8", "int8-weight-only"),
    *("int4-g32", "int4-g64", "int4-g128", "fp8"),
)
CROSS_ATTENTION_MODES = ("cached", "cached-8bit", "absorbed")
CLOUDS = ("aws", "gcp")
OFFLOADS = ("none", "encoder", "all")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 all done, 2 bad usage or some input that failed."""
    args = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        # A name or a text that the terminal's encoding lacks must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if args.command == "models":
            from serve.commands.models import list_models

            return list_models()
        if args.command == "check-config":
            from serve.commands.check_config import check_config

            return check_config(args.file, args.cluster)
        if args.command == "transcribe":
            from serve.commands.transcribe import transcribe

            return transcribe(args)
        if args.command == "plan":
            from serve.commands.plan import plan_command

            return plan_command(args)
        if args.command in ("fetch", "watch-spot"):
            return _run_node_command(args)
        return _run_cluster_command(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: nothing left to say, not even at exit.
        sys.stdout = None
        return EXIT_OK


def _run_node_command(args: argparse.Namespace) -> int:
    if args.command == "fetch":
        from serve.commands.fetch import fetch

        return fetch(args.file, args.labels)
    from serve.commands.watch_spot import watch_spot

    return watch_spot(args.cloud, args.address)


def _run_cluster_command(args: argparse.Namespace) -> int:
    from serve.commands import cluster as cluster_command

    if args.command == "up":
        return cluster_command.up(args.file, args.address, args.timeout)
    if args.command == "down":
        return cluster_command.down(args.address)
    if args.command == "env":
        return cluster_command.print_environment()
    if args.command == "status":
        return cluster_command.status(args.address, args.yaml, args.watch)
    return cluster_command.build_config(args.file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="murmur", description="Whisper speech recognition, exact and batched."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_transcribe(commands.add_parser("transcribe", help="transcribe files on this machine"))
    commands.add_parser("models", help="list the models that can be loaded")
    _add_plan(commands.add_parser("plan", help="which GPUs a model fits, how, and what it costs"))
    check = commands.add_parser("check-config", help="check a cluster's settings and print them")
    check.add_argument("file", nargs="?", help=_FILE_HELP)
    check.add_argument(
        "--cluster", metavar="FILE", help="for `ray up`: whether its node types can hold every tier"
    )
    _add_node_commands(commands)
    _add_cluster_commands(commands)
    return parser


def _add_cluster_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    start = commands.add_parser("up", help="serve: deploy on a Ray cluster, and print the address")
    start.add_argument("file", nargs="?", help=_FILE_HELP)
    start.add_argument(
        "--timeout", type=float, default=1800.0, metavar="SECONDS", help="(%(default)g)"
    )
    stop = commands.add_parser("down", help="stop serving, and a cluster that `up` started")
    status = commands.add_parser("status", help="print how the application and its tiers are")
    status.add_argument("--yaml", action="store_true", help="what Ray Serve says, for programs")
    status.add_argument(
        *("--watch", "-w"),
        type=float,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="again and again (default: every 2 s)",
    )
    for parser in (start, stop, status):
        parser.add_argument(
            "--address",
            help="of a Ray cluster, host:port or auto; default: RAY_ADDRESS, else a cluster of "
            "this machine's own, which `up` starts",
        )
    commands.add_parser("env", help="print what other Ray jobs need to join `up`'s own cluster")
    build = commands.add_parser("build", help="print a config for `serve deploy`, KubeRay")
    build.add_argument("file", nargs="?", help=_FILE_HELP)


def _add_node_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    fetch = commands.add_parser("fetch", help="download the weights of a file's tiers")
    fetch.add_argument("file", nargs="?", help=_FILE_HELP)
    fetch.add_argument(
        "--labels",
        metavar="JSON",
        help="of a node, an object of strings: only tiers that may run there",
    )
    watch = commands.add_parser(
        "watch-spot", help="on a spot machine: drain its node when the cloud takes it away"
    )
    watch.add_argument("cloud", choices=CLOUDS)
    watch.add_argument("--address", default="auto", help="of the Ray cluster (%(default)s)")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Which GPUs a model fits, with which settings, how fast that can be at most, and what an "
        "hour of audio costs. Arithmetic: it needs no GPU, nor a published model's files."
    )
    parser.add_argument("model", nargs="?", help="published model, folder, hub id or demo model")
    parser.add_argument("--gpu", action="append", help="class, such as L4; repeatable; default all")
    parser.add_argument("--batch", type=int, help="chunks decoded at once; default: the best")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: the GPU's 16-bit format")
    _add_memory_modes(parser)
    parser.add_argument("--max-length", type=int, help="positions of a text, prompt included (448)")
    parser.add_argument("--tp", type=int, default=1, help="GPUs that share each layer (1)")
    parser.add_argument("--pp", type=int, default=1, help="GPUs with consecutive layers (1)")
    parser.add_argument(
        "--tokens", type=float, default=100.0, help="of a chunk's text, on average (100)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="where it does not fit look for no other settings"
    )
    parser.add_argument("--matrix", action="store_true", help="every published model on every GPU")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_memory_modes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cross-attention",
        choices=CROSS_ATTENTION_MODES,
        help="what is kept of each chunk for the decoder: all layers' keys and values, those in 8 "
        "bits, or the encoder's output alone, for little memory; default: cached, and cached-8bit "
        "at int8 on a CPU",
    )
    parser.add_argument(
        "--int8-self-attention",
        action="store_true",
        help="keep keys and values of the text so far in 8 bits",
    )
    parser.add_argument(
        "--offload",
        choices=OFFLOADS,
        default="none",
        help="layers that stay in the host's memory and come to the GPU two at a time (none)",
    )


def _add_transcribe(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Transcribe audio and video files. Text goes to the standard output as it becomes final, "
        "or into --output-dir. Progress goes to the standard error: a bar on a terminal, "
        "JSON lines otherwise. Exit code 2: some input failed; the other files are finished."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio or video; - reads stdin")
    parser.add_argument(
        "--model", default="demo:tiny.en", help="folder, hub id or demo model (%(default)s)"
    )
    parser.add_argument("--language", help="ISO code or English name; default: detected per file")
    parser.add_argument(
        "--task", choices=("transcribe", "translate"), default="transcribe", help="%(default)s"
    )
    parser.add_argument("--format", choices=FORMATS, default="txt", help="%(default)s")
    parser.add_argument("--output-dir", metavar="DIR", help="write one file per input there")
    parser.add_argument("--prompt", help="text to continue: names, spelling, style")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 (default): greedy, and higher only where the text looks wrong; else fixed",
    )
    parser.add_argument(
        "--no-fallback", action="store_true", help="never decode again at a higher temperature"
    )
    parser.add_argument(
        "--context",
        type=int,
        default=32,
        metavar="N",
        help="chunks in a row that are decoded one after another, each with the text of those "
        "before it, which shares the room of the prompt (%(default)s: 16 minutes); rows run side "
        "by side; 1: every chunk on its own, all at once, for speed",
    )
    parser.add_argument("--device", help="torch device; default: cuda if there is one, else cpu")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="default: on a CPU int8 where the native kernels run, else float32; on a GPU "
        "bfloat16, else float16",
    )
    _add_memory_modes(parser)
    parser.add_argument("--batch-size", type=int, default=24, help="chunks decoded at once (24)")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all cores")
    parser.add_argument(
        "--max-duration", type=float, metavar="SECONDS", help="refuse longer files (24 hours)"
    )


if __name__ == "__main__":
    sys.exit(main())
