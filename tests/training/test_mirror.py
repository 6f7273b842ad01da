"""A run that loses its machine goes on from its copy in object storage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_run import CPU, go, losses
from training.checkpoints import RunFiles
from training.errors import TrainingError
from training.mirror import Mirror
from training.run import Run
from training.settings import FinetuneSettings
from training.world import World

Make = Callable[..., FinetuneSettings]
VALUES = {"steps": 6, "checkpoint_every": 1}


@pytest.mark.more
def test_another_machine_ends_as_the_first_would_have(
    settings: Make, manifest: Path, tmp_path: Path
) -> None:
    sets = [{"name": "clips", "manifest": str(manifest)}]
    values = {**VALUES, "validation": sets, "evaluate_every": 3}
    whole = settings(**values)
    go(whole)
    mirror = f"file://{tmp_path / 'bucket'}"
    first = settings(**values, mirror=mirror, output=str(tmp_path / "first"))
    assert not go(first, stop_after=4).finished
    shutil.rmtree(first.output)
    said: list[str] = []
    second = settings(**values, mirror=mirror, output=str(tmp_path / "second"))
    outcome = Run(
        second, World(CPU), lambda record: said.append(record.get("text", "")), lambda: False
    ).go()
    assert outcome.finished and f"step 4 comes from {mirror}" in said
    assert losses(second) == losses(whole)
    ours, theirs = (load_file(each.output / "model/model.safetensors") for each in (second, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    bucket = tmp_path / "bucket"
    assert sorted(path.name for path in bucket.iterdir()) == ["00000006", "mirror.json", "result"]
    result = bucket / "result"
    for name in ("model/model.safetensors", "model/murmur.json", "curves.png", "history.jsonl"):
        assert (result / name).read_bytes() == (second.output / name).read_bytes()


def test_a_copy_that_was_cut_off_is_not_gone_on_from(settings: Make, tmp_path: Path) -> None:
    """The step before it is, whose files are still there."""
    bucket = tmp_path / "bucket"
    made = settings(**VALUES, mirror=f"file://{bucket}")
    go(made, stop_after=2)
    newer = bucket / "00000003" / "checkpoints" / "00000003"
    newer.mkdir(parents=True)
    (newer / "state.json").write_text('{"step": 3')
    other = settings(**VALUES, mirror=made.mirror, output=str(tmp_path / "other"))
    assert Mirror(made.mirror or "", RunFiles(other)).fetch() == 2
    assert RunFiles(other).newest_step == 2
    (bucket / "00000002/checkpoints/00000002/optimiser.pt").unlink()
    third = settings(**VALUES, mirror=made.mirror, output=str(tmp_path / "third"))
    with pytest.raises(TrainingError, match="mirror: file://.* cannot be read"):
        Mirror(made.mirror or "", RunFiles(third)).fetch()
    assert RunFiles(third).newest_step is None


def test_what_the_folder_has_goes_before_an_older_copy(settings: Make, tmp_path: Path) -> None:
    made = settings(**VALUES, mirror="memory://older")
    go(made, stop_after=2)
    without = settings(**VALUES)
    go(without, stop_after=1)
    assert RunFiles(made).newest_step == 3
    assert Mirror("memory://older", RunFiles(made)).fetch() is None


def test_a_run_does_not_end_where_its_copy_fails(settings: Make, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    made = settings(**VALUES, mirror=f"file://{in_the_way}/bucket")
    said: list[str] = []
    outcome = Run(
        made, World(CPU), lambda record: said.append(record.get("text", "")), lambda: False
    ).go()
    assert outcome.finished
    assert sum("the mirror could not be written" in text for text in said) == 7


@pytest.mark.parametrize(
    ("url", "says"), [("nowhere://bucket", "Protocol not known"), ("s3://bucket/a", "s3fs")]
)
def test_storage_that_cannot_be_used_is_told_at_once(settings: Make, url: str, says: str) -> None:
    with pytest.raises(TrainingError, match=f"mirror: {url} cannot be used: .*{says}"):
        go(settings(mirror=url))


def test_a_run_with_other_settings_is_not_gone_on_with(settings: Make, tmp_path: Path) -> None:
    mirror = f"file://{tmp_path / 'bucket'}"
    go(settings(**VALUES, mirror=mirror), stop_after=1)
    other = settings(**VALUES, mirror=mirror, seed=1, output=str(tmp_path / "other"))
    with pytest.raises(TrainingError, match=r"other settings \(seed\)"):
        go(other)


def test_state_names_what_there_is(settings: Make, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    go(settings(**VALUES, mirror=f"file://{bucket}"), stop_after=2)
    state = json.loads((bucket / "mirror.json").read_text())
    names = ("optimiser.pt", "state.json", "weights.safetensors")
    expected = {*(f"checkpoints/00000002/{name}" for name in names), "history.jsonl"}
    assert (state["step"], state["folder"], set(state["files"])) == (2, "00000002", expected)
    assert all((bucket / state["folder"] / name).is_file() for name in state["files"])
