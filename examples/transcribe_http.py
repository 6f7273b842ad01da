"""Transcribe a file over HTTP.

python examples/transcribe_http.py http://127.0.0.1:8000 tests/data/librivox-0870.wav [MODEL]
"""

import sys

from deployments.options import TranscribeOptions
from serve.client import connect


def main() -> None:
    url, path, *model = sys.argv[1:]
    options = TranscribeOptions(model=model[0] if model else "whisper-1")
    with connect(url) as client:
        for segment in client.stream(path, options):
            print(f"{segment.start_s:8.2f} {segment.end_s:8.2f} {segment.text.strip()}")


if __name__ == "__main__":
    main()
