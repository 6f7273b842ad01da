"""Adapters beside the base's weights: the tokens of merged models, in any company, in any split."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import (
    Checkpoint,
    CrossAttentionMode,
    DecodingOptions,
    Engine,
    EngineConfig,
    EngineError,
    Offload,
    Precision,
    Request,
    RequestError,
    Result,
    open_checkpoint,
)
from engine.fit import rank_memory
from engine.gang.local import local_gang
from engine.parallel.low_rank import TokenDeltas
from engine.parallel.stages import Stage
from engine.precision import Arithmetic
from engine.runner import ModelRunner
from tests.conftest import MODELS
from tests.support.adapters import merged, with_adapters, write_adapter
from tests.support.gangs import check_equal, mesh_of
from tests.support.params import more_but
from tests.support.running import run, run_alone

NAMES = ("", "names", "accent")
CONFIG = EngineConfig(max_slots=8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two of the committed clips."""
    return dict(list(clips.items())[:2])


@pytest.fixture(scope="module", params=[MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.more)])
def base(request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    return checkpoints[request.param]


@pytest.fixture(scope="module")
def folders(base: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of all layers and one of two projections of a decoder, of unlike ranks."""
    folder = tmp_path_factory.mktemp("adapters")
    some = ("q_proj", "v_proj")
    return {
        "names": write_adapter(base, folder / "names", seed=1, strength=0.1),
        "accent": write_adapter(
            base, folder / "accent", 2, rank=12, layers=some, sides=("decoder",), strength=0.3
        ),
    }


@pytest.fixture(scope="module")
def adapted(base: Checkpoint, folders: dict[str, Path]) -> Checkpoint:
    return with_adapters(base.name, folders)


@pytest.fixture(scope="module")
def engine(adapted: Checkpoint) -> Engine:
    return Engine(adapted, CONFIG)


@pytest.fixture(scope="module")
def together(engine: Engine, clips: dict[str, np.ndarray]) -> dict[str, Result]:
    """All three models' chunks in one batch."""
    return run(engine, requests(clips, NAMES))


def requests(
    clips: Mapping[str, np.ndarray], adapters: tuple[str, ...], named: bool = True
) -> list[Request]:
    """Each clip with each adapter, greedy and as a search.

    Args:
        named: whether requests name the adapter; else it is in their id alone.
    """
    options = {
        "plain": DecodingOptions(prompt="Jane Austen"),
        "words": DecodingOptions(words=True, beam_size=2),
        "prefix": DecodingOptions(timestamps=False, prefix=(843, 1770)),
    }
    return [
        Request(f"{adapter} {kind} {clip}", pcm, option, group=clip, adapter=adapter * named)
        for clip, pcm in clips.items()
        for kind, option in options.items()
        for adapter in adapters
    ]


def numbers(result: Result) -> tuple[object, ...]:
    """All that is computed, to the bit."""
    return (
        result.tokens,
        result.segments,
        result.avg_logprob,
        result.no_speech_prob,
        result.language_prob,
    )


def all_numbers(results: Mapping[str, Result]) -> dict[str, tuple[object, ...]]:
    return {key: numbers(result) for key, result in results.items()}


@pytest.mark.parametrize("name", NAMES[1:])
def test_tokens_are_those_of_the_merged_model(
    name: str, adapted: Checkpoint, together: dict[str, Result], clips: dict[str, np.ndarray]
) -> None:
    alone = run(Engine(merged(adapted, name), CONFIG), requests(clips, (name,), named=False))
    check_equal({key: together[key] for key in alone}, alone)


def test_adapters_change_the_text(together: dict[str, Result]) -> None:
    """Without this, the other tests would say nothing."""
    for name in NAMES[1:]:
        keys = [key for key in together if key.startswith(f"{name} ")]
        plain = [key.removeprefix(name) for key in keys]
        assert any(
            together[a].tokens != together[b].tokens for a, b in zip(keys, plain, strict=True)
        )


def test_rows_without_an_adapter_keep_their_bits(
    base: Checkpoint, together: dict[str, Result], clips: dict[str, np.ndarray]
) -> None:
    plain = run(Engine(base, CONFIG), requests(clips, ("",)))
    assert all_numbers(plain) == all_numbers({key: together[key] for key in plain})


@pytest.mark.parametrize(
    "precision",
    [
        Precision.INT8,
        *(
            pytest.param(each, marks=pytest.mark.more)
            for each in (Precision.FLOAT32, Precision.BFLOAT16)
        ),
    ],
)
def test_a_chunk_does_not_depend_on_its_neighbours_adapters(
    precision: Precision, adapted: Checkpoint, base: Checkpoint, clips: dict[str, np.ndarray]
) -> None:
    config = EngineConfig(precision=precision, max_slots=16)
    engine, some = Engine(adapted, config), dict(list(clips.items())[:1])
    mixed = run(engine, requests(some, NAMES))
    alone = {r.request_id: run_alone(engine, r) for r in requests(some, NAMES)}
    assert all_numbers(mixed) == all_numbers(alone)
    plain = run(Engine(base, config), requests(some, ("",)))
    assert all_numbers(plain) == all_numbers({key: mixed[key] for key in plain})


@pytest.mark.parametrize(
    "precision", more_but((Precision.INT8,), (Precision.INT8, Precision.INT4_G64))
)
def test_other_precisions_are_near_the_merged_model(
    precision: Precision, adapted: Checkpoint, clips: dict[str, np.ndarray]
) -> None:
    """Not equal: merged weights are rounded with what was added, adapters stay apart. A prefix that
    nobody said makes a text that the rounding of 4 bits ends, so it is left out there."""
    config = EngineConfig(precision=precision)
    some = dict(list(clips.items())[:1])
    is_4_bit = precision is Precision.INT4_G64
    said = [each for each in requests(some, ("names",)) if not (is_4_bit and each.options.prefix)]
    found = run(Engine(adapted, config), said)
    alone = run(Engine(merged(adapted, "names"), config), [replace(e, adapter="") for e in said])
    for key, result in found.items():
        assert abs(result.avg_logprob - alone[key].avg_logprob) < 0.1, key


def test_absorbed_cross_attention_takes_adapters_of_other_layers(
    base: Checkpoint, tmp_path: Path, clips: dict[str, np.ndarray]
) -> None:
    layers = ("q_proj", "out_proj", "fc1", "fc2")
    folder = write_adapter(base, tmp_path / "names", 3, layers=layers, strength=0.1)
    adapted = with_adapters(base.name, {"names": folder})
    config = EngineConfig(cross_attention=CrossAttentionMode.ABSORBED)
    some = dict(list(clips.items())[:1])
    found = run(Engine(adapted, config), requests(some, ("names",)))
    alone = run(Engine(merged(adapted, "names"), config), requests(some, ("names",), named=False))
    check_equal(found, alone)


@pytest.mark.more
@pytest.mark.parametrize(("tensor_parallel", "layers"), [(2, [1.0]), (1, [0.5, 0.5])])
def test_ranks_give_the_same_tokens(
    tensor_parallel: int,
    layers: list[float],
    base: Checkpoint,
    folders: dict[str, Path],
    together: dict[str, Result],
    clips: dict[str, np.ndarray],
) -> None:
    names = {name: str(folder) for name, folder in folders.items()}
    n_layers = base.dims.n_audio_layer + base.dims.n_text_layer
    mesh = mesh_of(base, tensor_parallel, [int(part * n_layers) for part in layers])
    with local_gang(partial(open_checkpoint, base.name, names), mesh, CONFIG) as engine:
        some = requests(dict(list(clips.items())[:1]), NAMES)
        check_equal(run(engine, some), {r.request_id: together[r.request_id] for r in some})


def test_languages_are_detected_with_the_adapter(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """By a decoder that is adapted, as by the merged model."""
    several = checkpoints[MODELS[1]]
    folder = write_adapter(several, tmp_path / "names", 1, sides=("decoder",))
    checkpoint = with_adapters(several.name, {"names": folder})
    pcm, options = next(iter(clips.values())), DecodingOptions(task="detect_language")
    found = run_alone(Engine(checkpoint, CONFIG), Request("a", pcm, options, adapter="names"))
    alone = run_alone(Engine(merged(checkpoint, "names"), CONFIG), Request("a", pcm, options))
    plain = run_alone(Engine(several, CONFIG), Request("a", pcm, options))
    assert [p for _, p in found.language_probs] == pytest.approx(
        [p for _, p in alone.language_probs], abs=1e-4
    )
    assert abs(found.language_prob - plain.language_prob) > 0.001


def test_rows_without_an_adapter_keep_even_the_sign_of_a_zero(adapted: Checkpoint) -> None:
    model = ModelRunner(adapted, CONFIG).decoder
    deltas = next(each for each in model.modules() if isinstance(each, TokenDeltas))
    width = adapted.dims.n_text_state
    y = torch.full((4, 1, deltas.up(torch.zeros(1, len(deltas.owners))).shape[-1]), -0.0)
    out = deltas.add_to(y, torch.randn(4, 1, width), torch.tensor([0, 1, 0, 0]))
    assert torch.signbit(out[[0, 2, 3]]).all() and out[1].count_nonzero()


def test_one_copy_of_the_weights(adapted: Checkpoint, base: Checkpoint, engine: Engine) -> None:
    """The plan's bytes are those that are held: the base's once, and the adapters'."""
    with_them, without = ModelRunner(adapted, CONFIG), ModelRunner(base, CONFIG)
    whole = (Stage.whole(base.dims),)
    on_cpu = Arithmetic.of(CPU)
    use = rank_memory(base.dims, CONFIG, on_cpu, whole, 0, adapters=adapted.adapters)
    assert with_them.n_bytes - without.n_bytes == use.adapters
    assert use.adapters < 0.2 * use.weights
    assert with_them.n_bytes == use.weights + use.cache + use.adapters


def test_unknown_adapter(engine: Engine, clips: dict[str, np.ndarray]) -> None:
    with pytest.raises(RequestError, match="there is no adapter 'dialect'"):
        engine.add_request(Request("0", next(iter(clips.values())), adapter="dialect"))


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (
            EngineConfig(cross_attention=CrossAttentionMode.ABSORBED),
            r"adapter names adapts decoder.layers.0.encoder_attn.k_proj, which cross_attention=",
        ),
        (
            EngineConfig("cuda", offload=Offload.ENCODER),
            "offload=encoder does not go with adapters",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused(
    config: EngineConfig, fault: str, adapted: Checkpoint
) -> None:
    from engine.fit import fitted
    from tests.engine.test_fit import A100

    arithmetic = Arithmetic.of(CPU) if config.on_cpu else A100
    with pytest.raises(EngineError, match=fault):
        fitted(adapted.dims, config, arithmetic, 1e12, adapted.adapters)
