"""The subcommands about speech and models on this machine."""

from typing import Annotated, Literal

import typer

from serve.commands.arguments import PlanArguments, TranscribeArguments
from serve.commands.typer_app import Work, app

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
