"""`murmur` and `murmur --version`: what Murmur is, and where to begin."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from platform import python_version

from serve.commands.exit_codes import EXIT_OK

_WELCOME = """\
{version}: Whisper speech recognition, of files here or as a server on Ray.

  murmur transcribe talk.mp3    the words of an audio or video file
  murmur up                     serve on this machine, with OpenAI's API
  murmur plan large-v3          which GPUs a model fits, how fast, at what price
  murmur doctor                 what this machine has, and what it lacks

murmur --help lists all commands; murmur transcribe --help explains one.
"""


def welcome() -> int:
    print(_WELCOME.format(version=f"Murmur {_of('murmur-serve')}"), end="")
    return EXIT_OK


def version() -> str:
    """The versions that a bug report should name: of Murmur, Python, torch and Ray."""
    parts = [f"Python {python_version()}", f"torch {_of('torch')}", f"Ray {_of('ray')}"]
    return f"murmur {_of('murmur-serve')} ({', '.join(parts)})"


def _of(package: str) -> str:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "not installed"
