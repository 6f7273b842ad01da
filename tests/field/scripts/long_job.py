"""A Ray job that waits for a long file's transcript, until it is killed.

python long_job.py AUDIO MODEL
"""

import sys
from pathlib import Path

import ray

from deployments.options import TranscribeOptions
from serve.client import connect


def main() -> None:
    ray.init(log_to_driver=False)
    with connect("murmur") as client:
        client.transcribe(Path(sys.argv[1]).read_bytes(), TranscribeOptions(model=sys.argv[2]))


if __name__ == "__main__":
    main()
