"""How a model is cut over ranks and stages."""

from dataclasses import replace

import pytest

from engine.errors import ShardingError
from engine.model_sizes import LARGE_V3
from engine.parallel.partition import partition, scaled
from engine.parallel.stages import (
    Stage,
    check_stages,
    check_tensor_parallel,
    cut_stages,
    group_sizes,
)

DIMS = replace(LARGE_V3, n_audio_layer=4, n_text_layer=3)


def test_twenty_heads_over_eight_ranks() -> None:
    assert [len(part) for part in partition(20, 8)] == [3, 3, 3, 3, 2, 2, 2, 2]


@pytest.mark.parametrize("total", [1, 6, 20, 51_866])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_parts_are_contiguous_and_whole(total: int, size: int) -> None:
    if size > total:
        with pytest.raises(ValueError, match="cannot split"):
            partition(total, size)
        return
    parts = partition(total, size)
    assert [item for part in parts for item in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_scaled_part() -> None:
    assert scaled(range(2, 5), 64) == slice(128, 320)


def test_a_cut_is_a_contiguous_partition_of_encoder_and_decoder() -> None:
    assert cut_stages(DIMS, [7]) == (Stage.whole(DIMS),)
    assert cut_stages(DIMS, [2, 3, 2]) == (
        Stage(range(2), range(0)),
        Stage(range(2, 4), range(1)),
        Stage(range(4, 4), range(1, 3)),
    )
    check_stages(DIMS, cut_stages(DIMS, [1] * 7))


@pytest.mark.parametrize(
    ("layer_counts", "message"),
    [
        ([1] * 8, "1 to 7, the model's number of layers \\(4 encoder, 3 decoder\\); got 8"),
        ([4, 4], "8 in all; the model has 7 \\(4 encoder, 3 decoder\\)"),
        ([4, 2], "6 in all"),
        ([7, 0], "each pipeline stage must hold a layer"),
    ],
)
def test_counts_that_are_no_cut(layer_counts: list[int], message: str) -> None:
    with pytest.raises(ShardingError, match=message):
        cut_stages(DIMS, layer_counts)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage(range(3), range(0)), Stage(range(2, 4), range(3))], "1 .* overlaps"),
        ([Stage(range(4), range(2)), Stage(range(0), range(1, 3))], "1 .* overlaps"),
        ([Stage(range(2), range(0)), Stage(range(3, 4), range(3))], "1 .* leaves layers out"),
        ([Stage(range(4), range(0)), Stage(range(0), range(2))], "the model's last layers"),
        ([Stage(range(4), range(3)), Stage(range(0), range(0))], "stage 1 holds no layer"),
    ],
)
def test_stages_that_are_no_cut(stages: list[Stage], message: str) -> None:
    with pytest.raises(ShardingError, match=message):
        check_stages(DIMS, stages)


def test_no_more_ranks_than_heads() -> None:
    check_tensor_parallel(DIMS, 20)
    with pytest.raises(ShardingError, match="1 to 20, the model's number of heads; got 21"):
        check_tensor_parallel(DIMS, 21)


def test_a_slot_group_for_each_stage_that_decodes() -> None:
    assert group_sizes(cut_stages(DIMS, [4, 3]), 5) == [5]
    assert group_sizes(cut_stages(DIMS, [3, 2, 2]), 5) == [3, 2]
    assert group_sizes(cut_stages(DIMS, [4, 1, 1, 1]), 2) == [1, 1]
