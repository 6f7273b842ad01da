"""A model split over processes: the cost of a step, the traffic, and who waits for whom.

    python -m benchmarks.sharded [--model demo:tiny.en] [--mesh 1x1 --mesh 2x1 --mesh 1x2 ...]
    torchrun --nproc-per-node 5 -m benchmarks.sharded --mesh 2x2

A mesh is TENSORxPIPELINE. The cost model chooses its cut from the measured speed of a single rank;
`1x2:natural` cuts between encoder and decoder, `1x2:5,3` after so many layers. Under torchrun the
first process leads and computes nothing. Prints a table for each mesh, then one JSON line.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from benchmarks.clusters import speech
from benchmarks.random_model import random_checkpoint
from engine import (
    DecodingOptions,
    Engine,
    EngineConfig,
    ModelDimensions,
    Precision,
    Request,
    open_checkpoint,
)
from engine.batching import batch_rows
from engine.config import SAMPLE_RATE
from engine.gang.connection import Listener
from engine.gang.gang import Gang
from engine.gang.local import local_gang
from engine.gang.orders import RankReport
from engine.gang.setup import OpenCheckpoint, assemble_gang, run_rank
from engine.model_sizes import MODEL_SIZES
from engine.parallel.balance import balance
from engine.parallel.cost import (
    StageCost,
    Workload,
    idle_share,
    stage_cost,
    stage_costs,
)
from engine.parallel.device_model import DeviceModel
from engine.parallel.distributed import Mesh
from engine.parallel.stages import Stage, cut_stages, group_sizes
from engine.parallel.wire_costs import WireModel
from engine.sequence import Sequence as Running
from engine.steps import Decode
from engine.transfer import Pending

PROMPT = 4
WINDOW_S = 28.0
MESHES = ["1x1", "2x1", "1x2", "1x2:natural", "2x2"]


@dataclass(frozen=True)
class RankRow:
    """A rank's part, measured and computed. Bytes and calls are per step."""

    rank: int
    layers: str
    idle_share: float
    predicted_idle_share: float
    collective_share: float
    step_calls: float
    predicted_step_calls: int
    step_bytes: float
    predicted_step_bytes: int
    device_mb: float
    predicted_device_mb: float
    rss_mb: float
    peak_rss_mb: float


@dataclass(frozen=True)
class MeshRow:
    """Results of a mesh. A step is a token in every slot; `windows_per_s` is at saturation."""

    mesh: str
    cut: str
    step_ms: float
    encode_ms: float
    windows_per_s: float
    tokens_per_window: float
    mean_idle_share: float
    predicted_mean_idle_share: float
    ranks: list[RankRow]


@dataclass(frozen=True)
class Saturation:
    """What a gang achieves when there is always more work."""

    windows_per_s: float
    tokens_per_window: float
    reports: list[RankReport]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    opener = _opener(options.model)
    config = EngineConfig(
        options.device,
        options.precision,
        max_slots=options.slots,
        encode_batch=options.encode_batch,
    )
    if "TORCHELASTIC_RUN_ID" in os.environ:
        rows = _under_torchrun(options, opener, config)
    else:
        rows = _here(options, opener, config)
    if rows:
        print(json.dumps({"results": [asdict(row) for row in rows]}))


def _here(
    options: argparse.Namespace, opener: OpenCheckpoint, config: EngineConfig
) -> list[MeshRow]:
    device, tokens = None, options.tokens
    rows = []
    dims = opener().dims
    for text in options.mesh:
        mesh = _mesh(text, dims, config, device, tokens)
        backend = options.backend
        with local_gang(opener, mesh, config, None, options.threads, None, backend) as engine:
            row = _measure(text, engine, device, options)
        rows.append(row)
        _print(row)
        if mesh.size == 1:
            device, tokens = _calibrated(row, dims, mesh.stages[0], config), row.tokens_per_window
    return rows


def _under_torchrun(
    options: argparse.Namespace, opener: OpenCheckpoint, config: EngineConfig
) -> list[MeshRow]:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    mesh = _mesh(options.mesh[0], opener().dims, config, None, options.tokens)
    if world != mesh.size + 1:
        raise SystemExit(f"{options.mesh[0]} needs {mesh.size + 1} processes: ranks and a leader")
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    if rank > 0:
        host, port = store.get("murmur-leader").decode().split()
        beside_leader = os.environ["GROUP_RANK"] == "0"
        gpu = int(os.environ["LOCAL_RANK"]) - int(beside_leader)
        own = None if config.on_cpu else f"cuda:{gpu}"
        run_rank((host, int(port)), bytes.fromhex(store.get("murmur-key").decode()), rank - 1, own)
        return []
    listener = Listener(options.host)
    store.set("murmur-key", listener.key.hex())
    store.set("murmur-leader", f"{listener.address[0]} {listener.address[1]}")
    checkpoint = opener()
    gang = assemble_gang(
        listener, checkpoint, opener, mesh, config, None, options.backend, options.threads
    )
    with _closing(Engine(checkpoint, config, gang)) as engine:
        row = _measure(options.mesh[0], engine, None, options)
    _print(row)
    return [row]


@contextmanager
def _closing(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.close()


def _opener(model: str) -> OpenCheckpoint:
    if model in MODEL_SIZES:
        return partial(random_checkpoint, model, MODEL_SIZES[model])
    return partial(open_checkpoint, model)


def _mesh(
    text: str,
    dims: ModelDimensions,
    config: EngineConfig,
    device: DeviceModel | None,
    tokens: float,
) -> Mesh:
    shape, _, cut = text.partition(":")
    tensor, pipeline = (int(part) for part in shape.split("x"))
    if cut == "natural":
        return Mesh(cut_stages(dims, [dims.n_audio_layer, dims.n_text_layer]), tensor)
    if cut:
        return Mesh(cut_stages(dims, [int(part) for part in cut.split(",")]), tensor)
    stages = balance(
        dims,
        [device or DeviceModel(100e9, 10e9, float("inf"))] * pipeline,
        tensor,
        config.formats,
        Workload(config.max_slots, tokens),
        config.positions(dims),
        config.encode_limit,
    )
    return Mesh(stages, tensor)


def _calibrated(
    row: MeshRow, dims: ModelDimensions, stage: Stage, config: EngineConfig
) -> DeviceModel:
    """The arithmetic and bandwidth with which the cost model yields the measured times of one rank:
    arithmetic limits encoding, bandwidth limits decoding."""
    formats = config.formats
    load = Workload(config.max_slots, row.tokens_per_window)
    args = (config.positions(dims), config.encode_limit)
    endless = float("inf")

    def cost(flops_per_s: float, bytes_per_s: float) -> StageCost:
        device = DeviceModel(flops_per_s, bytes_per_s, endless)
        return stage_cost(dims, stage, 1, formats, device, load, *args)

    encode_s = row.encode_ms / 1e3
    decode_s = row.step_ms / 1e3 * row.tokens_per_window / config.max_slots
    flops_per_s = cost(1.0, endless).encode_s / encode_s
    return DeviceModel(flops_per_s, cost(endless, 1.0).decode_s / decode_s, endless)


def _measure(
    text: str, engine: Engine, device: DeviceModel | None, options: argparse.Namespace
) -> MeshRow:
    gang = engine.executor
    assert isinstance(gang, Gang)
    pcm = speech(WINDOW_S * 4)
    n_samples = round(WINDOW_S * SAMPLE_RATE)
    windows = [pcm[i * n_samples : (i + 1) * n_samples] for i in range(4)]
    n_slots = engine.config.max_slots
    _saturate(engine, windows, n_slots, 8)  # warm
    encode_ms = _encode_ms(gang, windows, 12)
    step_ms, steps = _steps(gang, n_slots, options.steps)
    saturation = _saturate(engine, windows, options.windows, options.max_new_tokens)
    costs = _costs(engine, gang, device, saturation.tokens_per_window)
    rows = [
        _rank_row(engine, gang, costs, report, at_work, options)
        for report, at_work in zip(steps, saturation.reports, strict=True)
    ]
    cut = " | ".join(map(str, gang.mesh.stages))
    return MeshRow(
        mesh=text,
        cut=cut,
        step_ms=step_ms,
        encode_ms=encode_ms,
        windows_per_s=saturation.windows_per_s,
        tokens_per_window=saturation.tokens_per_window,
        mean_idle_share=statistics.mean(row.idle_share for row in rows),
        predicted_mean_idle_share=idle_share(costs),
        ranks=rows,
    )


def _encode_ms(gang: Gang, windows: Sequence[npt.NDArray[np.int16]], n: int) -> float:
    """Milliseconds per window, from samples to keys and values in its slot, one by one."""
    began = time.perf_counter()
    n_submitted = n_done = 0
    while n_done < n:
        while gang.encoding.room and n_submitted < n:
            request = Request(f"e{n_submitted}", windows[n_submitted % len(windows)])
            gang.encoding.submit([Running(request, (0,), 0.0, 0.0, 1500)])
            n_submitted += 1
        n_done += len(gang.encoding.collect(0))
    gang.report()
    return (time.perf_counter() - began) / n * 1e3


def _steps(gang: Gang, n_slots: int, n_steps: int) -> tuple[float, list[RankReport]]:
    """Milliseconds for a token in every slot, with each group a step ahead; and what was sent."""
    sizes = group_sizes(gang.mesh.stages, n_slots)

    def launch(group: int, step: int) -> Pending:
        n = sizes[group]
        return gang.decode(Decode(group, n, PROMPT + step, (None,) * n))

    gang.report()
    times = []
    under_way = [launch(group, 0) for group in range(len(sizes))]
    for step in range(1, n_steps):
        began = time.perf_counter()
        for group in range(len(sizes)):
            under_way[group].get()
            under_way[group] = launch(group, step)
        times.append(time.perf_counter() - began)
    for values in under_way:
        values.get()
    return statistics.median(times) * 1e3, gang.report()


def _saturate(
    engine: Engine, windows: Sequence[npt.NDArray[np.int16]], n: int, max_new_tokens: int | None
) -> Saturation:
    """Decode windows; measures from when all slots are in use to when the last window gets one."""
    gang, slots = engine.executor, engine.config.max_slots
    assert isinstance(gang, Gang)
    options = DecodingOptions(language="en", max_new_tokens=max_new_tokens)
    for i in range(n + 2 * slots):
        engine.add_request(Request(f"s{i}", windows[i % len(windows)], options))
    n_done = n_tokens = 0
    began: float | None = None
    measured: Saturation | None = None
    while engine.has_unfinished:
        results = engine.step()
        if began is not None and measured is None:
            n_done += len(results)
            n_tokens += sum(len(result.tokens) + 1 for result in results)
        if began is None and engine.n_waiting <= n + slots // 2 and results:
            gang.report()
            began = time.perf_counter()
        elif began is not None and measured is None and engine.n_waiting == 0:
            took_s = time.perf_counter() - began
            measured = Saturation(n_done / took_s, n_tokens / max(n_done, 1), gang.report())
    assert measured is not None
    return measured


def _costs(
    engine: Engine, gang: Gang, device: DeviceModel | None, tokens: float
) -> list[StageCost]:
    config, mesh = engine.config, gang.mesh
    return stage_costs(
        engine.dims,
        mesh.stages,
        [device or DeviceModel(100e9, 10e9, float("inf"))] * len(mesh.stages),
        mesh.tensor_parallel,
        config.formats,
        Workload(config.max_slots, tokens),
        config.positions(engine.dims),
        config.encode_limit,
    )


def _rank_row(
    engine: Engine,
    gang: Gang,
    costs: Sequence[StageCost],
    stepped: RankReport,
    at_work: RankReport,
    options: argparse.Namespace,
) -> RankRow:
    dims, config, mesh = engine.dims, engine.config, gang.mesh
    stage = mesh.stage_of(stepped.rank)
    by_nccl = options.backend == "nccl" or (options.backend is None and not config.on_cpu)
    formats = config.formats
    wires = WireModel(dims, mesh, stepped.rank, formats.dtype.itemsize, by_nccl)
    sizes = group_sizes(mesh.stages, config.max_slots)
    is_float32 = config.precision is Precision.FLOAT32
    expected = [
        wires.decode(n, batch_rows(n, n, is_float32) if config.on_cpu else n) for n in sizes
    ]
    slowest_s = max(cost.window_s for cost in costs)
    memory = costs[stage].memory.weights + costs[stage].memory.cache
    return RankRow(
        rank=stepped.rank,
        layers=str(mesh.stages[stage]),
        idle_share=at_work.idle_s / at_work.elapsed_s,
        predicted_idle_share=1 - costs[stage].window_s / slowest_s,
        collective_share=at_work.collective_s / at_work.elapsed_s,
        step_calls=sum(stepped.calls.values()) / options.steps,
        predicted_step_calls=sum(sum(cost.calls.values()) for cost in expected),
        step_bytes=sum(stepped.sent_bytes.values()) / options.steps,
        predicted_step_bytes=sum(sum(cost.sent_bytes.values()) for cost in expected),
        device_mb=stepped.device_bytes / 1e6,
        predicted_device_mb=memory / 1e6,
        rss_mb=(at_work.rss_bytes - at_work.bare_rss_bytes) / 1e6,
        peak_rss_mb=(at_work.peak_rss_bytes - at_work.bare_rss_bytes) / 1e6,
    )


def _print(row: MeshRow) -> None:
    print(
        f"\n{row.mesh}: {row.cut}\n{row.step_ms:.1f} ms a step, {row.encode_ms:.0f} ms a window's "
        f"encoding, {row.windows_per_s:.2f} windows/s of {row.tokens_per_window:.0f} tokens; "
        f"{row.mean_idle_share:.0%} idle on average (model {row.predicted_mean_idle_share:.0%})\n"
    )
    print("| rank | idle (model) | collectives | calls a step | bytes a step | MB | RSS | peak |")
    print("|---" * 8 + "|")
    for rank in row.ranks:
        print(
            f"| {rank.rank} | {rank.idle_share:.0%} ({rank.predicted_idle_share:.0%}) "
            f"| {rank.collective_share:.0%} "
            f"| {rank.step_calls:g} ({rank.predicted_step_calls}) "
            f"| {rank.step_bytes:.0f} ({rank.predicted_step_bytes}) "
            f"| {rank.device_mb:.1f} ({rank.predicted_device_mb:.1f}) | {rank.rss_mb:.0f} "
            f"| {rank.peak_rss_mb:.0f} |",
            flush=True,
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A model split over processes.")
    parser.add_argument("--model", default="demo:tiny.en", help="or large-v3, turbo, tiny: random")
    parser.add_argument("--mesh", action="append", help=f"by default {' '.join(MESHES)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", type=Precision, default=Precision.FLOAT32)
    parser.add_argument("--backend", choices=["gloo", "nccl"])
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--encode-batch", type=int)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument(
        "--tokens", type=float, default=75.0, help="of a window, for the cost model"
    )
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--host", default="127.0.0.1", help="of the leader, under torchrun")
    options = parser.parse_args(arguments)
    options.mesh = options.mesh or MESHES
    return options


if __name__ == "__main__":
    main()
