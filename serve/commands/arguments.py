"""The arguments of `murmur transcribe` and `murmur plan`, with their help and defaults.

This module imports nothing slow, because help, completion and usage errors need nothing else. The
engine's lists are copied here; a test compares them.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import typer

from serve.http.cue_limits import CueLimits

Format = Literal["txt", "json", "verbose_json", "srt", "vtt", "ass", "tsv", "ctm"]
Task = Literal["transcribe", "translate"]
PrecisionName = Literal[
    "float32",
    "bfloat16",
    "float16",
    "int8",
    "int8-weight-only",
    "int4-g32",
    "int4-g64",
    "int4-g128",
    "fp8",
]
CrossAttentionName = Literal["cached", "cached-8bit", "absorbed"]
WindowName = Literal["exact", "short"]
OffloadName = Literal["none", "encoder", "all"]
MODEL_NAMES = (
    *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
    *("large", "large-v1", "large-v2", "large-v3", "large-v3-turbo", "turbo"),
    *("distil-small.en", "distil-medium.en"),
    *("distil-large-v2", "distil-large-v3", "distil-large-v3.5"),
    *("demo:tiny.en", "demo:base"),
)
MAX_TEXTS = 16
MAX_BOOST = 10.0
_MODEL_HELP = "turbo, large-v3 and so on (`murmur models` lists them), a folder, or a hub id."
_PRECISION_HELP = f"Number format: {', '.join(get_args(PrecisionName))}."


def _beam_size(text: str) -> str:
    """Checked here, and turned into a number later: typer knows no options of two types."""
    if text == "auto" or (text.isdecimal() and 1 <= int(text) <= MAX_TEXTS):
        return text
    raise typer.BadParameter(f"{text!r} is neither a number from 1 to {MAX_TEXTS} nor auto.")


def _models(incomplete: str) -> list[str]:
    return [name for name in MODEL_NAMES if name.startswith(incomplete)]


_CrossAttention = Annotated[
    CrossAttentionName | None,
    typer.Option(
        help="What is kept of each chunk for the decoder: keys and values of all layers (cached), "
        "those in 8 bits (cached-8bit), or the encoder's output alone (absorbed: little memory).",
        show_default="cached; at int8 on a CPU cached-8bit",
        metavar="WHAT",
    ),
]
_Int8SelfAttention = Annotated[
    bool,
    typer.Option(
        "--int8-self-attention",
        help="Keep keys and values of the text so far in 8 bits.",
    ),
]
_Offload = Annotated[
    OffloadName,
    typer.Option(
        help="Layers that stay in the host's memory and come to the GPU two at a time: none, those "
        "of the encoder, or all.",
        metavar="LAYERS",
    ),
]


@dataclass(frozen=True, kw_only=True)
class TranscribeArguments:
    """Transcribe audio and video files on this machine.

    Text goes to the standard output as it becomes final, or into --output-dir. Progress goes to the
    standard error: a bar on a terminal, JSON lines otherwise.

    Exit codes: 0 all done; 2 some input failed or was refused, and the other files are finished; 3
    all done, but the audio of some file could not be read whole; 130 interrupted.
    """

    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Audio or video; - reads the standard input."),
    ]
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help=_MODEL_HELP, autocompletion=_models),
    ] = "tiny.en"
    language: Annotated[
        list[str] | None,
        typer.Option(
            "--language",
            "-l",
            metavar="LANGUAGE",
            help="ISO code or English name, or auto. Several, with commas or given again: the "
            "language is detected among them.",
            show_default="auto: detected in each file",
        ),
    ] = None
    multilingual: Annotated[
        bool,
        typer.Option(
            "--multilingual",
            help="Detect the language of each chunk, for files with several; among those in "
            "--language if they are given.",
        ),
    ] = False
    track: Annotated[
        str | None,
        typer.Option(
            metavar="TRACK",
            help="Audio track of a file that has several: a number from 1, or a language.",
            show_default="the one in --language or the file's default, if it has sound",
        ),
    ] = None
    task: Annotated[Task, typer.Option(help="To translate is to translate to English.")] = (
        "transcribe"
    )
    format: Annotated[Format, typer.Option("--format", "-f", help="Of the transcript.")] = "txt"
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output-dir",
            "-o",
            metavar="DIR",
            help="Write one file for each input there.",
            show_default="the standard output",
        ),
    ] = None
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Text to continue: names, spelling, style.")
    ] = None
    keywords: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS",
            help="Words to expect, with commas or given again. 'NAME :2' doubles its weight.",
        ),
    ] = None
    keyword_boost: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=MAX_BOOST,
            help="How much keywords are favoured; 0: they stand in the prompt alone.",
        ),
    ] = 1.0
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=2.0,
            metavar="T",
            help="0: the likeliest text, and higher temperatures only where that looks wrong. "
            "From 0.01 on: this one for all.",
        ),
    ] = 0.0
    beam_size: Annotated[
        str,
        typer.Option(
            callback=_beam_size,
            metavar="N",
            help="Beam search at temperature 0: N texts of a chunk side by side, each in a place "
            "of the batch. 1: greedy; auto: greedy, and 5 where the text is unsure.",
        ),
    ] = "1"
    patience: Annotated[
        float,
        typer.Option(min=0.01, max=10.0, metavar="P", help="End a beam search after N x P texts."),
    ] = 1.0
    best_of: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_TEXTS,
            metavar="N",
            help="Above temperature 0, sample N texts of a chunk and keep the likeliest.",
        ),
    ] = 1
    length_penalty: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="A",
            help="Compare texts by ((5 + length) / 6)^A; by default by the mean of a token.",
        ),
    ] = None
    words: Annotated[
        bool,
        typer.Option("--words", help="Give times and probability of each word, in JSON."),
    ] = False
    hallucination_silence_threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Leave out text that looks made up, with longer silence around it.",
        ),
    ] = None
    max_line_width: Annotated[
        int, typer.Option(min=1, metavar="N", help="Characters of a line of subtitles.")
    ] = CueLimits().max_line_width
    max_line_count: Annotated[
        int, typer.Option(min=1, metavar="N", help="Lines of a cue of subtitles.")
    ] = CueLimits().max_line_count
    max_words_per_line: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Words of a line of subtitles.", show_default="any number"
        ),
    ] = None
    max_cue_s: Annotated[
        float, typer.Option(min=0.5, metavar="SECONDS", help="Length of a cue of subtitles.")
    ] = CueLimits().max_cue_s
    highlight_words: Annotated[
        bool,
        typer.Option(
            "--highlight-words", help="Underline each word of subtitles while it is said."
        ),
    ] = False
    no_fallback: Annotated[
        bool,
        typer.Option("--no-fallback", help="Never decode again at a higher temperature."),
    ] = False
    context: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="CHUNKS",
            help="Chunks in a row that are decoded one after another, each with the text of those "
            "before it; rows run side by side. 32 are 16 minutes. 1: every chunk on its own, all "
            "at once, for speed.",
        ),
    ] = 32
    vad_threshold: Annotated[
        float,
        typer.Option(
            metavar="P",
            help="Probability of voice, between 0 and 1, from which audio is taken for speech.",
        ),
    ] = 0.5
    max_duration: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Refuse files that are longer.", show_default="24 hours"
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Of torch: cpu, cuda, cuda:1.",
            show_default="cuda if there is one, else cpu",
        ),
    ] = None
    precision: Annotated[
        PrecisionName | None,
        typer.Option(
            help=_PRECISION_HELP,
            show_default="on a CPU int8 where the native kernels run, else float32; on a GPU "
            "bfloat16, else float16",
            metavar="FORMAT",
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads.", show_default="all cores"),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Chunks, or texts of beam searches, decoded at once.",
            show_default="24; up to 40 for beam searches",
        ),
    ] = None
    cross_attention: _CrossAttention = None
    int8_self_attention: _Int8SelfAttention = False
    offload: _Offload = "none"
    window: Annotated[
        WindowName,
        typer.Option(
            metavar="WINDOW",
            help="What the encoder sees of a chunk: exact, all 30 s of Whisper's window, or short, "
            "the chunk and some silence, which is faster for files of a few seconds; where a text "
            "shows signs of it, the whole window is decoded.",
        ),
    ] = "exact"

    def __call__(self) -> int:
        """Run the command; returns the exit code."""
        from serve.commands.transcribe import transcribe

        return transcribe(self)


@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """Show which GPUs a model fits, how fast, at what price.

    Computes with which settings a model fits, its highest possible speed, and what an hour of audio
    costs. Needs no GPU, and no files of published models.
    """

    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help=_MODEL_HELP,
            autocompletion=_models,
            show_default=False,
        ),
    ] = None
    gpu: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Such as L4; may be given again.", show_default="all"),
    ] = None
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Every published model on every GPU.")
    ] = False
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="What fine-tuning needs instead: bytes by kind for each way to do it, with "
            "--batch-size windows at once (4 if not given).",
        ),
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
    precision: Annotated[
        PrecisionName | None,
        typer.Option(
            help=_PRECISION_HELP, show_default="the GPU's 16-bit format", metavar="FORMAT"
        ),
    ] = None
    tokens: Annotated[float, typer.Option(metavar="N", help="Of a chunk's text, on average.")] = (
        100.0
    )
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Where it does not fit, look for no other settings."),
    ] = False
    tensor_parallel: Annotated[
        int,
        typer.Option(
            "--tensor-parallel", "--tp", min=1, metavar="N", help="GPUs that share each layer."
        ),
    ] = 1
    pipeline_parallel: Annotated[
        int,
        typer.Option(
            "--pipeline-parallel",
            "--pp",
            min=1,
            metavar="N",
            help="Groups of those that hold consecutive layers.",
        ),
    ] = 1
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "--batch",
            min=1,
            metavar="N",
            help="Chunks decoded at once.",
            show_default="the best",
        ),
    ] = None
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens of a text that there is room for, prompt included.",
            show_default="448",
        ),
    ] = None
    cross_attention: _CrossAttention = None
    int8_self_attention: _Int8SelfAttention = False
    offload: _Offload = "none"

    def __call__(self) -> int:
        """Run the command; returns the exit code."""
        from serve.commands.plan import plan_command

        return plan_command(self)
