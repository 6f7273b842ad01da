"""Which installation a cluster runs, and how it differs from this one."""

import json
from pathlib import Path

import pytest

from serve.commands import installation
from serve.commands.installation import difference, this_installation, write_installation


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    path = tmp_path / "installation"
    write_installation(path)
    return path


def change(path: Path, **values: str) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_same_is_not_outdated_and_neither_is_what_is_not_known(
    noted: Path, tmp_path: Path
) -> None:
    assert difference(noted) == ""
    assert difference(tmp_path / "none") == ""


def test_another_folder_is_named_and_whether_it_is_gone(noted: Path, tmp_path: Path) -> None:
    change(noted, folder=str(tmp_path))
    assert difference(noted) == f"it runs the installation in {tmp_path}"
    change(noted, folder=str(tmp_path / "old"))
    assert difference(noted) == f"it runs the installation in {tmp_path}/old, which is gone"


def test_other_versions_are_named(noted: Path) -> None:
    change(noted, ray="2.59.0", code="another")
    here = this_installation()["ray"]
    assert difference(noted) == f"it runs ray 2.59.0 instead of {here}"


def test_changed_code_is_told(noted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serve").mkdir()
    (tmp_path / "serve" / "new.py").write_text("pass")
    monkeypatch.setattr(installation, "_ROOT", tmp_path)
    change(noted, folder=str(tmp_path))
    assert difference(noted) == "it runs older code of this installation"
