#!/usr/bin/env bash
# Ogg that begins late: `Duration` means another thing for each codec.
#
# Four seconds of sound that begin at 5 s. What ffmpeg (n9.0.2, in imageio-ffmpeg 0.8.1) says of the
# file, as `ffmpeg -i` and ffprobe show it:
#
#   Opus    Duration 9.01, start 5.0   the position of the end; the start counts twice if it is added
#   FLAC    Duration 9.00, start 0.0   the position of the end, and the late start is not seen at all
#   Vorbis  Duration 4.00, start 5.0   the length, as for every other container
#
# So `start + duration`, which is right for MP4 and Matroska, is wrong by the start for Opus in Ogg.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q imageio-ffmpeg==0.8.1
"$folder/venv/bin/python" - "$folder" <<'PY'
import re
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg

EXPECTED = {"libopus": (9.0, 5.0), "flac": (9.0, 0.0), "libvorbis": (4.0, 5.0)}
folder, ffmpeg = Path(sys.argv[1]), imageio_ffmpeg.get_ffmpeg_exe()
print(subprocess.run([ffmpeg, "-version"], capture_output=True, text=True).stdout.splitlines()[0])
for codec, expected in EXPECTED.items():
    file = str(folder / f"{codec}.ogg")
    tone = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=4"]
    command = [ffmpeg, "-v", "error", "-y", *tone, "-c:a", codec, "-output_ts_offset", "5", file]
    subprocess.run(command, check=True)
    told = subprocess.run([ffmpeg, "-i", file], capture_output=True, text=True).stderr
    found = re.search(r"Duration: 00:00:([\d.]+), start: ([\d.]+)", told)
    assert found is not None, told
    duration_s, start_s = map(float, found.groups())
    print(f"{codec}: Duration {duration_s}, start {start_s}")
    assert abs(duration_s - expected[0]) < 0.05 and abs(start_s - expected[1]) < 0.05
PY
