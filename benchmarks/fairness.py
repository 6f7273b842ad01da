"""A short clip behind long files: how long it waits.

    python -m benchmarks.fairness [--model demo:tiny.en] [--files 10] [--minutes 10] [--clips 10]

A clip of 3 s is sent to a real cluster that is idle, and then to one that is transcribing ten files
of ten minutes sent before it. For comparison, it measures how long one full batch takes alone,
because a newcomer may have to wait that long for a free slot. Prints a table, then one JSON
line.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence

import httpx2

from benchmarks.clusters import serving, speech, wav

SLOTS = 24


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    tier = {"name": "bench", "model": options.model, "batch_size": SLOTS}
    with serving({"tiers": [tier]}) as url:
        idle, batch_s, loaded, files_s = asyncio.run(_measure(url, options))
    bound_s = 2 * statistics.median(idle) + batch_s
    print(f"clip alone           {statistics.median(idle):6.2f} s (median of {len(idle)})")
    print(f"one batch of {SLOTS}      {batch_s:6.2f} s")
    print(
        f"clip behind files    {statistics.median(loaded):6.2f} s median, {max(loaded):.2f} s most"
    )
    print(f"2 x alone + a batch  {bound_s:6.2f} s")
    print(f"the files            {files_s:6.2f} s")
    result = {"idle_s": idle, "batch_s": batch_s, "loaded_s": loaded, "files_s": files_s}
    print(json.dumps(result))


async def _measure(
    url: str, options: argparse.Namespace
) -> tuple[list[float], float, list[float], float]:
    clip, long = wav(speech(3.0)), wav(speech(60 * options.minutes))
    async with httpx2.AsyncClient(base_url=url, timeout=3600) as client:
        await _post(client, clip)
        idle = [await _post(client, clip) for _ in range(options.clips)]
        # As many chunks as there are slots, from one file.
        batch_s = await _post(client, wav(speech(29.5 * SLOTS)))
        began = time.perf_counter()
        files = [asyncio.create_task(_post(client, long)) for _ in range(options.files)]
        await asyncio.sleep(10)
        loaded: list[float] = []
        while len(loaded) < options.clips and not any(file.done() for file in files):
            loaded.append(await _post(client, clip))
        await asyncio.gather(*files)
        return idle, batch_s, loaded, time.perf_counter() - began


async def _post(client: httpx2.AsyncClient, body: bytes) -> float:
    began = time.perf_counter()
    answer = await client.post(
        "/v1/audio/transcriptions", data={"model": "bench"}, files={"file": ("a.wav", body)}
    )
    answer.raise_for_status()
    return time.perf_counter() - began


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A short clip behind long files.")
    parser.add_argument("--model", default="demo:tiny.en", help="(%(default)s)")
    parser.add_argument("--files", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="of each (%(default)s)")
    parser.add_argument("--clips", type=int, default=10, help="(%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
