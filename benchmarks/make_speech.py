"""Long real speech with known words and times, from Debian's prompts for the Asterisk exchange.

    python -m benchmarks.make_speech OUT [--minutes 10] [--languages en,es,fr,it,ru] [--seed 1]

Writes OUT/LANG.wav (16 kHz mono) and OUT/LANG.json: {"language", "text", "segments": [{"start",
"end", "text"}]}, in seconds. Needs the packages asterisk-core-sounds-{en,es,fr,it,ru} and their
-wav companions (real voices, CC-BY-SA; do not commit recordings made from them).
"""

import argparse
import glob
import gzip
import hashlib
import json
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import soundfile

RATE = 16_000
PAUSES_S = (0.15, 0.3, 0.6, 1.2, 2.5)
VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Long real speech with known words and times.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--languages", default=",".join(VOICES))
    parser.add_argument("--seed", default="1")
    options = parser.parse_args(arguments)
    for language in options.languages.split(","):
        build(options.out, language, options.minutes, options.seed)


def build(out: Path, language: str, minutes: float, seed: str) -> None:
    """Write one language's recording: prompts in a random order, pauses of random lengths."""
    rng = random.Random(f"{seed}{language}")
    prompts = list(find_prompts(language))
    if not prompts:
        raise SystemExit(
            f"no prompts: install asterisk-core-sounds-{language} and its -wav package"
        )
    rng.shuffle(prompts)
    audio: list[npt.NDArray[np.float32]] = []
    segments: list[dict[str, float | str]] = []
    time_s = 0.0
    while time_s < minutes * 60:
        for path, text in prompts:
            if time_s >= minutes * 60:
                break
            speech = read(path)
            pause = np.zeros(int(rng.choice(PAUSES_S) * RATE), np.float32)
            end_s = time_s + len(speech) / RATE
            segments.append({"start": round(time_s, 3), "end": round(end_s, 3), "text": text})
            audio += [speech, pause]
            time_s += (len(speech) + len(pause)) / RATE
    out.mkdir(parents=True, exist_ok=True)
    soundfile.write(out / f"{language}.wav", np.concatenate(audio), RATE, subtype="PCM_16")
    truth = {
        "language": language,
        "text": " ".join(str(segment["text"]) for segment in segments),
        "segments": segments,
    }
    (out / f"{language}.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")
    print(f"{language}: {len(segments)} prompts, {time_s / 60:.1f} min")


def find_prompts(
    language: str, part: str = "tune", min_words: int = 4
) -> Iterator[tuple[str, str]]:
    """(file, text) of prompts without digits or markup.

    A hash of its name puts each prompt in one of two parts: `tune`, for whoever looks for causes
    and chooses settings, and `judge`, by which nothing may ever be chosen.
    """
    for listing in glob.glob(
        f"/usr/share/doc/asterisk-core-sounds-{language}/core-sounds-*.txt.gz"
    ):
        for line in gzip.open(listing, "rt", encoding="utf-8", errors="replace"):
            line = line.lstrip("\ufeff").strip()
            if not line or line.startswith(";") or ":" not in line:
                continue
            name, text = (field.strip() for field in line.split(":", 1))
            path = f"/usr/share/asterisk/sounds/{VOICES[language]}/{name}.wav"
            usable = len(text.split()) >= min_words and not re.search(r"[\[\]<>()\d]", text)
            if usable and part_of(f"{language}/{name}") == part and Path(path).exists():
                yield path, text


def part_of(name: str) -> str:
    """`tune` or `judge`."""
    return "tune" if hashlib.sha256(name.encode()).digest()[0] >= 128 else "judge"


def read(path: str) -> npt.NDArray[np.float32]:
    """(n,) float32 at 16 kHz."""
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path]
    command = [*ffmpeg, "-ac", "1", "-ar", str(RATE), "-f", "f32le", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32)


if __name__ == "__main__":
    main()
