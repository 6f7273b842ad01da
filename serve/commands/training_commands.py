"""The subcommands about models that learn."""

from typing import Annotated

import typer

from serve.commands.typer_app import Work, app


@app.command()
def finetune(
    file: Annotated[
        str, typer.Argument(metavar="SETTINGS", help="YAML: model, data, and how it learns.")
    ],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Look at settings, model and data, and say what the run would need.",
        ),
    ] = False,
) -> Work:
    """Fine-tune a model on speech with known words.

    Writes a model's folder that `up` and `transcribe` take, and curves of loss and word errors. A
    run that was stopped, by Ctrl-C or by a loss of power, goes on when the same command is given
    again.
    """

    def work() -> int:
        from serve.commands.finetune import finetune as run

        return run(file, dry_run)

    return work
