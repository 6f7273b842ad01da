"""Made speech with rare names in it: places of the time zone database (tzdata), in short sentences,
spoken by the voices of flite."""

import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

VOICES = ("slt", "rms", "awb", "kal16")
N_NAMES = 40
_ZONES = Path("/usr/share/zoneinfo/zone1970.tab")
_MIN_LETTERS = 5
_SENTENCES = (
    "The train to {} leaves at nine in the morning.",
    "We have not heard from {} since the end of last week.",
    "Please send the second box to {} and keep the first one here.",
    "My sister moved to {} when the new bridge was built.",
    "There is a small market in {} that opens before sunrise.",
    "He asked whether {} was north or south of the river.",
    "The weather in {} has been better than we expected.",
    "They will meet us in {} if the road is open again.",
    "Nobody at the office had ever been to {} before.",
    "The old map of {} hangs in the hall next to the door.",
)


@dataclass(frozen=True)
class Spoken:
    """A file and the name in it."""

    file: str
    text: str
    name: str


def names_of(part: str) -> list[str]:
    """The names of a part, `tune` or `judge`, in a fixed random order; all of them."""
    zones = [line.split("\t")[2] for line in _ZONES.read_text().splitlines() if line[0] != "#"]
    names = sorted({zone.rsplit("/", 1)[-1].replace("_", " ") for zone in zones})
    rare = [name for name in names if len(name) >= _MIN_LETTERS and name.isascii()]
    here = [name for name in rare if _part_of(name) == part]
    random.Random(part).shuffle(here)
    return here


def make(folder: Path, part: str) -> None:
    """Write FOLDER/N.wav and FOLDER/spoken.json: each of 40 names by each voice."""
    folder.mkdir(parents=True, exist_ok=True)
    spoken = list(_speak(folder, part))
    (folder / "spoken.json").write_text(json.dumps([asdict(each) for each in spoken], indent=1))


def load(folder: Path) -> list[Spoken]:
    return [Spoken(**each) for each in json.loads((folder / "spoken.json").read_text())]


def _speak(folder: Path, part: str) -> Iterator[Spoken]:
    rng = random.Random(f"sentences {part}")
    for number, name in enumerate(names_of(part)[:N_NAMES]):
        for voice in VOICES:
            text = rng.choice(_SENTENCES).format(name)
            file = f"{number:02}-{voice}.wav"
            subprocess.run(
                ["flite", "-voice", voice, "-t", text, "-o", str(folder / file)], check=True
            )
            yield Spoken(file, text, name)


def _part_of(name: str) -> str:
    return "tune" if hashlib.sha256(name.encode()).digest()[0] % 2 else "judge"
