#!/usr/bin/env bash
# ALAC in CAF: ffmpeg takes the filling of the last packet off twice.
#
# CAF's packet table counts the frames that fill up the last packet, and an ALAC packet knows its own
# length. ffmpeg (n9.0.2, in imageio-ffmpeg 0.8.1) honours both, so that the end of a file is lost:
# as many frames as the last packet was filled up with, up to 4,095. The exit code is 0 and nothing
# is said. The same packets in MP4 decode whole, and so does CAF with `-flags2 +skip_manual`.
#
# Seen: of 20,000 frames (48 kHz, mono) 19,520 come back from CAF, 20,000 from MP4; 4,096 * 5 -
# 20,000 = 480 are missing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q imageio-ffmpeg==0.8.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PY'
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np

folder, ffmpeg = Path(sys.argv[1]), imageio_ffmpeg.get_ffmpeg_exe()
print(subprocess.run([ffmpeg, "-version"], capture_output=True, text=True).stdout.splitlines()[0])
n_frames = 20_000
noise = np.random.default_rng(0).integers(-9_000, 9_000, n_frames, dtype=np.int16)
raw = ["-f", "s16le", "-ar", "48000", "-ac", "1", "-i", "-"]


def decoded(name, *options):
    command = [ffmpeg, "-v", "error", *options, "-i", str(folder / name), "-f", "s16le", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert not done.stderr, done.stderr
    return np.frombuffer(done.stdout, np.int16)


lengths = {}
for name in ("a.caf", "a.mp4"):
    command = [ffmpeg, "-v", "error", *raw, "-c:a", "alac", str(folder / name)]
    subprocess.run(command, input=noise.tobytes(), check=True)
    got = decoded(name)
    lengths[name] = len(got)
    print(f"{name}: {len(got):,} of {n_frames:,} frames, equal: {np.array_equal(got, noise[:len(got)])}")
whole = decoded("a.caf", "-flags2", "+skip_manual")
print(f"a.caf with -flags2 +skip_manual: {len(whole):,}")
assert lengths == {"a.caf": 19_520, "a.mp4": 20_000}, lengths
assert len(whole) == n_frames
PY
