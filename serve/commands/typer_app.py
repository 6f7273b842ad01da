"""The app to which subcommands are added.

A subcommand's function does no work itself. It returns a function for `serve.commands.cli.main` to
call, which imports what it needs only then, so that help and completion are fast.
"""

from collections.abc import Callable

import typer

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
