"""Transcribe a file over HTTP.

python examples/transcribe_http.py http://127.0.0.1:8000 tests/data/librivox-0870.wav [MODEL]
"""

import argparse

from deployments.options import TranscribeOptions
from serve.client import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the server, such as http://127.0.0.1:8000")
    parser.add_argument("file", help="audio or video")
    parser.add_argument("model", nargs="?", default="whisper-1")
    args = parser.parse_args()
    options = TranscribeOptions(model=args.model)
    with connect(args.url) as client:
        for segment in client.stream(args.file, options):
            print(f"{segment.start_s:8.2f} {segment.end_s:8.2f} {segment.text.strip()}")


if __name__ == "__main__":
    main()
