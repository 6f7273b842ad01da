"""The folder of a cluster of our own: whose it is, and whether it runs. No Ray is started."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.commands.cli import main
from serve.commands.local_cluster import LocalCluster, LocalClusterError, default_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cluster"


@pytest.fixture
def running(folder: Path) -> Iterator[LocalCluster]:
    """As if one ran: its lock is held, and its address is written."""
    (folder / "ray").mkdir(parents=True, mode=0o755)
    (folder / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")
    (folder / "ray.log").write_text("Ray runtime started")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        yield LocalCluster(folder)


def test_nothing_runs_where_nothing_is(folder: Path) -> None:
    cluster = LocalCluster(folder)
    assert cluster.address() is None and not cluster.stop()
    assert not folder.exists(), "asking makes nothing"


def test_what_is_left_of_one_that_ended_does_not_run(folder: Path) -> None:
    (folder / "ray").mkdir(parents=True)
    (folder / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")
    (folder / "lock").touch()
    assert LocalCluster(folder).address() is None
    assert not LocalCluster(folder).stop()


def test_a_stale_process_id_is_not_killed(folder: Path) -> None:
    """Not even while another process asks whether the cluster runs, or starts one."""
    folder.mkdir()
    (folder / "pid").write_text(str(os.getpid()))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_SH)
        assert not LocalCluster(folder).stop()
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        (folder / "pid").unlink()
        with pytest.raises(LocalClusterError, match="just being started"):
            LocalCluster(folder).stop()


def test_a_second_start_leaves_the_first_alone(running: LocalCluster, folder: Path) -> None:
    assert running.address() == "10.0.0.1:6379"
    with pytest.raises(LocalClusterError, match="runs already"):
        LocalCluster(folder).start(1, os.environ)
    assert running.address() == "10.0.0.1:6379"
    assert (folder / "ray.log").read_text() == "Ray runtime started"


def test_the_token_is_the_owners_alone(running: LocalCluster, folder: Path) -> None:
    with pytest.raises(LocalClusterError):
        running.start(1, os.environ)
    assert (folder / "token").stat().st_mode & 0o077 == 0
    assert running.environment["RAY_AUTH_TOKEN_PATH"] == str(folder / "token")


def test_a_folder_that_others_can_write_is_not_used(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    for path in (folder, link):
        cluster = LocalCluster(path)
        with pytest.raises(LocalClusterError, match="others"):
            cluster.address()
        with pytest.raises(LocalClusterError, match="others"):
            cluster.stop()
        with pytest.raises(LocalClusterError, match="others"):
            cluster.start(1, os.environ)


def test_where_it_lies(tmp_path: Path) -> None:
    assert default_folder({"MURMUR_CLUSTER_DIR": str(tmp_path)}) == tmp_path
    assert default_folder({}).name == f"murmur-{os.getuid()}"


@pytest.fixture
def process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds the lock, as the cluster's do; its address is written."""
    (folder / "ray").mkdir(parents=True, mode=0o755)
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        process = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
    (folder / "pid").write_text(str(process.pid))
    monkeypatch.setenv("MURMUR_CLUSTER_DIR", str(folder))
    yield process
    process.kill()
    process.wait()


def test_down_stops_the_cluster_that_the_shell_has_joined(
    process: "subprocess.Popen[bytes]",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["down"]) == 0
    assert process.wait(5) == -signal.SIGTERM
    # The shell still names the cluster that is gone.
    assert main(["down"]) == 1
    assert "no Ray cluster at 127.0.0.1:1: Connection refused" in capsys.readouterr().err


def test_down_with_an_address_stops_no_cluster(
    process: "subprocess.Popen[bytes]", capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["down", "--address", "127.0.0.1:1"]) == 1
    assert "Connection refused" in capsys.readouterr().err and process.poll() is None


def test_down_where_nothing_runs_succeeds(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MURMUR_CLUSTER_DIR", str(folder))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["down"]) == 0
    assert "nothing runs on this machine" in capsys.readouterr().err
