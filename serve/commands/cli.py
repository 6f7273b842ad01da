"""The `murmur` command and its subcommands.

A subcommand's function does no work itself. It returns a function for `main` to call, which imports
what it needs only then, so that help and completion are fast.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import typer
from typer.main import get_command

from serve.commands.arguments import PlanArguments, TranscribeArguments
from serve.commands.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_WARNED
from serve.elsewhere import of_command

Work = Callable[[], int]
"""Returns an exit code."""

app = typer.Typer(
    rich_markup_mode=None,
    help="Whisper speech recognition: of files on this machine, or as a server on Ray.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 done with warnings, "
    "4 an update failed and was taken back, 130 interrupted.",
    context_settings={
        "help_option_names": ["--help", "-h"],
        # openai/whisper and its like write --beam_size.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)

_File = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE",
        help="Settings, YAML. Variables of the environment, such as MURMUR__HTTP__PORT=9000, go "
        "before it.",
        show_default="two small models",
    ),
]
_Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Of a Ray cluster, host:port or auto.",
        show_default="RAY_ADDRESS, else a cluster of this machine's own, which `up` starts",
    ),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (`serve.commands.exit_codes`)."""
    _make_streams_take_anything()
    try:
        code = _flushed(_run(argv))
    except typer.TyperException as error:
        return _say(_usage(error), error.exit_code)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone, as after `| head`. Write nothing more, even at exit.
        sys.stdout = None
        return EXIT_OK
    except OSError as error:
        sys.stdout = None
        named = f"{error.filename}: " if error.filename else ""
        return _say(f"{named}{error.strerror or error}", EXIT_FAILED)
    return code


def _flushed(code: int) -> int:
    """Write what the output still holds. A command that has failed keeps its exit code: it may have
    failed, and said so, because its output cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        if code in (EXIT_OK, EXIT_WARNED):
            raise
        sys.stdout = None
    return code


def _make_streams_take_anything() -> None:
    """Make sure that neither characters that a terminal's encoding lacks nor a stream that the
    caller has closed can end the run."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(argv: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        work = get_command(app).main(arguments, prog_name="murmur", standalone_mode=False)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # raised while help was printed
            raise end.__context__ from None
        raise
    # Options such as --help leave an exit code instead of work.
    return int(work()) if callable(work) else int(work or EXIT_OK)


def _usage(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "murmur"
    words = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    unknown = getattr(error, "option_name", None)
    known_elsewhere = of_command(unknown) if isinstance(unknown, str) else None
    if known_elsewhere is not None:
        words = f"No such option: {unknown}; {known_elsewhere}"
    return f"{words}; see {command} --help"


def _say(words: str, code: int) -> int:
    print(f"murmur: {words}", file=sys.stderr)
    return code


def _show_version(wanted: bool) -> None:
    if wanted:
        from serve.commands.welcome import version

        print(version())
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _without_a_command(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print it and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> Work | None:
    if context.invoked_subcommand is not None:
        return None
    from serve.commands.welcome import welcome

    return welcome


app.command("transcribe")(TranscribeArguments)
app.command("plan")(PlanArguments)


@app.command()
def detect(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Audio or video.")],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="One that knows many languages.")
    ] = "base",
    language: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LANGUAGE",
            help="Only these come into question; with commas or given again.",
            show_default="all",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With the probabilities of all languages.")
    ] = False,
) -> Work:
    """Tell which languages files are in.

    Listens to their first speech, a minute and a half at most.
    """

    def work() -> int:
        from serve.commands.detect import detect as run

        names = tuple(part.strip() for value in language or () for part in value.split(","))
        return run(files, model, tuple(name for name in names if name), as_json)

    return work


@app.command()
def live(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Audio or video, at its own pace.",
            show_default="the microphone",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="Or, with --url, a tier's name.")
    ] = "tiny.en",
    language: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LANGUAGE",
            help="Of the speech; with commas or given again, those that come into question.",
            show_default="detected",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Text that the transcript continues.")
    ] = None,
    keywords: Annotated[
        list[str] | None,
        typer.Option(metavar="WORDS", help="Words to expect, with commas or given again."),
    ] = None,
    delay: Annotated[
        Literal["minimal", "low", "medium", "high", "xhigh"],
        typer.Option(help="How soon words are told; later ones are surer.", metavar="DELAY"),
    ] = "low",
    policy: Annotated[
        Literal["align_att", "local_agreement"],
        typer.Option(help="Which words are told: align_att or local_agreement.", metavar="POLICY"),
    ] = "align_att",
    speed: Annotated[
        float,
        typer.Option(min=0.0, metavar="TIMES", help="Of a file; 0: as fast as it is transcribed."),
    ] = 1.0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="The microphone, as ffmpeg's -i has it.")
    ] = "default",
    device_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="Its kind, as ffmpeg's -f has it.",
            show_default="pulse, on a Mac avfoundation, on Windows dshow",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Of a server, without /v1.", show_default="the model runs here"
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Of the server.", envvar="OPENAI_API_KEY"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every event, a line each.")] = False,
) -> Work:
    """Write down speech while it is spoken.

    A turn that is over is a line; on a terminal the turn that goes on stands below them.
    """

    def work() -> int:
        from serve.commands.live import LiveArguments
        from serve.commands.live import live as run

        def split(values: list[str] | None) -> tuple[str, ...]:
            parts = (part.strip() for value in values or () for part in value.split(","))
            return tuple(part for part in parts if part)

        return run(
            LiveArguments(
                file=file,
                device=device,
                device_format=device_format,
                speed=speed or None,
                model=model,
                languages=split(language),
                prompt=prompt,
                keywords=split(keywords),
                policy=policy,
                delay=delay,
                as_json=as_json,
                url=url,
                api_key=api_key,
            )
        )

    return work


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> Work:
    """List models by name, and where their weights are."""

    def work() -> int:
        from serve.commands.models import list_models

        return list_models(as_json)

    return work


@app.command()
def up(
    file: _File = None,
    address: _Address = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long to wait until all tiers serve."),
    ] = 1800.0,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            metavar="PORT",
            help="To answer at; goes before the settings.",
            show_default="that of the settings, else 8000",
        ),
    ] = None,
    no_rollback: Annotated[
        bool,
        typer.Option("--no-rollback", help="Leave an update that failed as it is, for a look."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Look at everything, and only say what would change: which replicas would be "
            "replaced, and which only told.",
        ),
    ] = False,
) -> Work:
    """Serve on a Ray cluster or on this machine.

    Run it again to change settings. Looks at models, memory, resources and ports before anything is
    stopped. Waits until all tiers serve, then prints the server's address. If an update fails, the
    settings that worked last come back (exit code 4). If no cluster is named, one is started on
    this machine.
    """

    def work() -> int:
        from serve.commands.cluster import Up
        from serve.commands.cluster import up as run

        return run(Up(file, address, timeout, port, not no_rollback, dry_run))

    return work


@app.command()
def down(address: _Address = None) -> Work:
    """Stop serving, and stop a cluster that `up` started."""

    def work() -> int:
        from serve.commands.cluster import down as run

        return run(address)

    return work


@app.command()
def status(
    address: _Address = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Again and again, until interrupted.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Between two looks of --watch.")
    ] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="What Ray Serve says, as JSON.")] = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="The same as YAML.")] = False,
) -> Work:
    """Print the state of the server and its tiers.

    The exit code is 0 if it serves, else 1.
    """

    def work() -> int:
        from serve.commands.status import status as run

        form: Literal["table", "json", "yaml"] = "table"
        if as_json or as_yaml:
            form = "json" if as_json else "yaml"
        return run(address, form, every if watch else None)

    return work


@app.command()
def env() -> Work:
    """Print what other Ray jobs need to join `up`'s own cluster.

    For a shell: eval "$(murmur env)".
    """

    def work() -> int:
        from serve.commands.cluster import print_environment

        return print_environment()

    return work


@app.command("check-config")
def check_config(
    file: _File = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A file for `ray up`: check whether its node types can hold every tier.",
        ),
    ] = None,
    look_at_models: Annotated[
        bool,
        typer.Option("--models", help="Look at the models, too, on this machine, as `up` does."),
    ] = False,
) -> Work:
    """Check settings, and print them with all defaults."""

    def work() -> int:
        from serve.commands.check_config import check_config as run

        return run(file, cluster, look_at_models)

    return work


@app.command()
def build(file: _File = None) -> Work:
    """Print settings as a config for `serve deploy` or KubeRay."""

    def work() -> int:
        from serve.commands.cluster import build_config

        return build_config(file)

    return work


@app.command()
def fetch(
    file: _File = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Of a node, an object of strings: fetch only for tiers that may run there.",
            show_default="for all tiers",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Fetch this one instead, by any of its names; may be given again.",
        ),
    ] = None,
) -> Work:
    """Download the weights of a server's tiers.

    Prints where they are.
    """

    def work() -> int:
        from serve.commands.fetch import fetch as run

        return run(file, labels, model or [])

    return work


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask whether the model hub answers.")
    ] = False,
) -> Work:
    """Tell what this machine has and lacks.

    Says what models will run on, and for what is missing the command that mends it. The exit code
    is 1 if something that the machine is for does not work, such as its GPU.
    """

    def work() -> int:
        from serve.commands.doctor import doctor as run

        return run(as_json, offline)

    return work


@app.command("watch-spot")
def watch_spot(
    cloud: Annotated[Literal["aws", "gcp"], typer.Argument(metavar="CLOUD", help="aws or gcp.")],
    address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Of the Ray cluster, host:port or auto.")
    ] = "auto",
) -> Work:
    """Drain this spot machine's node when the cloud reclaims it."""

    def work() -> int:
        from serve.commands.watch_spot import watch_spot as run

        return run(cloud, address)

    return work


if __name__ == "__main__":
    sys.exit(main())
