"""Model folders are joined whole and checked, on stand-ins of a few bytes."""

import hashlib
from pathlib import Path

import pytest

from benchmarks import models


def package(folder: Path, part: int, content: bytes) -> Path:
    folder.mkdir()
    (folder / f"model.bin.part{part}").write_bytes(content)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (folder / name).write_text(name)
    return folder


def test_parts_are_joined_in_order_beside_the_other_files(tmp_path: Path) -> None:
    parts = [package(tmp_path / "a", 1, b"left"), package(tmp_path / "b", 2, b"right")]
    models._join(parts, tmp_path / "joined")
    assert (tmp_path / "joined" / "model.bin").read_bytes() == b"leftright"
    names = {path.name for path in (tmp_path / "joined").iterdir()}
    assert names == {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"}


def test_wrong_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"other")
    with pytest.raises(models.ModelError, match="sha256"):
        models._checked(tmp_path, hashlib.sha256(b"right").hexdigest())


def test_a_folder_with_a_model_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    assert models.model_folder(str(tmp_path)) == tmp_path


def test_unknown_name_is_refused() -> None:
    with pytest.raises(models.ModelError, match="demo:huge"):
        models.model_folder("demo:huge")
