"""The `murmur` command: runs a subcommand, and says in words what went wrong."""

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from serve.commands import audio_commands, server_commands, training_commands
from serve.commands.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_WARNED
from serve.commands.typer_app import Work, app
from serve.elsewhere import of_command

SUBCOMMANDS = (audio_commands, server_commands, training_commands)
"""Importing them adds their commands to the app, in the order of its help."""


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


if __name__ == "__main__":
    sys.exit(main())
