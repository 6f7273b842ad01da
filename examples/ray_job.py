"""A Ray job that transcribes many files through the cluster it runs on.

ray job submit -- python examples/ray_job.py FILE...
eval "$(murmur env)" && python examples/ray_job.py FILE...     for the cluster of `murmur up`
"""

import argparse

import ray

from deployments.options import TranscribeOptions
from serve.client import connect


@ray.remote
def transcribe(name: str, audio: bytes) -> tuple[str, str]:
    """Runs anywhere on the cluster; the file's bytes travel through the object store."""
    with connect("murmur") as client:
        return name, client.transcribe(audio, TranscribeOptions(model="whisper-1")).text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE")
    files = parser.parse_args().files
    ray.init(log_to_driver=False)
    pending = [transcribe.options(num_cpus=0).remote(name, read(name)) for name in files]
    while pending:
        (done,), pending = ray.wait(pending)
        name, text = ray.get(done)
        print(f"{name}: {text}", flush=True)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    main()
