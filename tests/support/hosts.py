"""Machines made of Linux namespaces, for launchers that reach their machines over ssh.

A host has its own network, processes, name, home, `/tmp` and `/dev/shm`; the rest of its file
system is this machine's. The hosts are in one network behind a bridge, and reach nothing else.
"""

import ipaddress
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

TOOLS = {
    "dropbear": "dropbear-bin",
    "ip": "iproute2",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "unshare": "util-linux",
}
"""Programs -> the Debian packages that have them."""
HOME = "/home/host"
_SCRIPT = Path(__file__).with_name("host.sh")
_SSH_OPTIONS = (
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", "-o", "IdentitiesOnly=yes"),
)
_BOOT_TIMEOUT_S = 60.0
_POLL_S = 0.5
_PYPI = "https://pypi.org/simple"
_PATIENCE = "export RAY_health_check_timeout_ms=8000 RAY_raylet_start_wait_time_s=300"
"""All hosts share this machine's cores, so a slow host must not be taken for a dead one."""


class Hosts:
    """A network of hosts, which are off at first; `close` removes all of it.

    Args:
        names: of the hosts.
        image: a folder in which the result of `prepare_image` is kept; by default it is removed.

    Raises:
        RuntimeError: this machine lacks a program or a permission.
    """

    def __init__(self, *names: str, image: Path | None = None) -> None:
        install_tools()
        # Not in /tmp, because every host has its own.
        self.folder = Path(tempfile.mkdtemp(prefix="murmur-hosts-", dir="/var/tmp"))
        self.ssh_key = self.folder / "id"
        self._base = self.folder / "base"
        self._image = image or self.folder / "image"
        self._subnet = _free_subnet()
        self.bridge = f"mh{self._subnet.network_address.packed[2]}"
        self._hosts: dict[str, Host] = {}
        try:
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.ssh_key)
            _furnish(self._base, self.ssh_key.with_suffix(".pub"))
            _run("ip", "link", "add", self.bridge, "type", "bridge")
            _run("ip", "address", "add", f"{self.address(0)}/24", "dev", self.bridge)
            _run("ip", "link", "set", self.bridge, "up")
            for n, name in enumerate(names, 1):
                self._hosts[name] = Host(name, n, self)
                self._hosts[name].connect()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> "Host":
        return self._hosts[name]

    def __iter__(self) -> "Iterator[Host]":
        return iter(self._hosts.values())

    def address(self, n: int) -> str:
        """The address of host number n; 0 is this machine."""
        return str(self._subnet.network_address + (10 + n if n else 1))

    @property
    def home(self) -> str:
        """The folders from which every host's home is made, upper ones first, joined by colons."""
        image = self._image / "home"
        return f"{image}:{self._base}" if image.exists() else str(self._base)

    @property
    def has_image(self) -> bool:
        return (self._image / "made").exists()

    def prepare_image(self, command: str) -> None:
        """Run a command in the home with which every host begins, as when a machine image is made.

        The command runs on a host that has this machine's network. All other hosts must be off.
        """
        _fill_host_folder(self._image, "image")
        log = self._image / "log"
        with log.open("wb") as output:
            done = subprocess.run(
                [*_UNSHARE, "image", self._image, self._base, command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_BARE,
            )
        if done.returncode:
            raise RuntimeError(f"the image cannot be made:\n{log.read_text()[-4000:]}")
        (self._image / "made").touch()

    def close(self) -> None:
        for host in self:
            host.remove()
        _try("ip", "link", "delete", self.bridge)
        shutil.rmtree(self.folder)


class Host:
    """One machine of a network; see Hosts."""

    def __init__(self, name: str, n: int, network: Hosts) -> None:
        self.name = name
        self.address = network.address(n)
        self._network = network
        self._folder = network.folder / name
        _fill_host_folder(self._folder, name, self.address)
        self._namespace = f"{network.bridge}-{name}"
        self._link = f"{network.bridge}v{n}"
        self._process: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Give the host a network card, which is off like the host."""
        _run("dropbearkey", "-t", "ed25519", "-f", self._folder / "key")
        _run("ip", "netns", "add", self._namespace)
        peer = ("peer", "name", "eth0", "netns", self._namespace)
        _run("ip", "link", "add", self._link, "type", "veth", *peer)
        _run("ip", "link", "set", self._link, "master", self._network.bridge)
        inside = ("ip", "-n", self._namespace)
        _run(*inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "link", "set", "eth0", "up")
        # Ray finds a machine's own address by the route to a public one.
        _run(*inside, "route", "add", "default", "via", self._network.address(0))

    @property
    def is_on(self) -> bool:
        return self._process is not None

    def switch_on(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        shutil.rmtree(self._folder / "tmp")
        (self._folder / "tmp").mkdir(mode=0o1777)
        _run("ip", "link", "set", self._link, "up")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self._namespace),
                    *(*_UNSHARE, self.name, self._folder, self._network.home),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_BARE,
            )
        wait_for(lambda: self._answers(), f"{self.name} to answer ssh", _BOOT_TIMEOUT_S)

    def cut_power(self) -> None:
        """End it as a power cut does: nobody is told, and no connection is closed."""
        assert self._process is not None
        _run("ip", "link", "set", self._link, "down")
        self._process.kill()
        self._process.wait()
        self._process = None

    def run(self, command: str) -> str:
        """Run a command over ssh, in a login shell; returns what it printed."""
        done = self._ssh(command)
        assert done.returncode == 0, f"{command} on {self.name}: {done.stdout}{done.stderr}"
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """The host's processes, except for its first one and the ssh server."""
        if self._process is None:
            return []
        first = psutil.Process(self._process.pid).children()[0]
        namespace = _namespace(first)
        inside = (p for p in psutil.process_iter() if _namespace(p) == namespace)
        return [p for p in inside if p != first and p.name() != "dropbear"]

    def remove(self) -> None:
        if self._process is not None:
            self.cut_power()
        _try("ip", "netns", "delete", self._namespace)  # this removes the network card, too

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self._folder / "log").read_text())
        return self._ssh("true").returncode == 0

    def _ssh(self, command: str) -> "subprocess.CompletedProcess[str]":
        shell = f"bash --login -c {shlex.quote(f'source ~/.bashrc; {command}')}"
        target = f"root@{self.address}"
        line = ["ssh", *_SSH_OPTIONS, "-i", str(self._network.ssh_key), target, shell]
        return subprocess.run(line, capture_output=True, text=True)


def install_tools(tools: Mapping[str, str] = TOOLS) -> None:
    """Install missing programs with apt-get.

    Args:
        tools: programs -> the Debian packages that have them.

    Raises:
        RuntimeError: a program cannot be installed, or this process is not root.
    """
    if os.geteuid() != 0:
        raise RuntimeError("hosts made of namespaces need root")
    missing = [package for tool, package in tools.items() if shutil.which(tool) is None]
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "-q"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{', '.join(missing)} cannot be installed:\n{done.stderr}")


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(_POLL_S)


_BARE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""Nothing of the tests' own environment gets into a host."""
_UNSHARE: tuple[str | Path, ...] = (
    *("unshare", "--pid", "--fork", "--mount", "--uts", "--mount-proc", "--kill-child"),
    *("bash", _SCRIPT),
)


def _furnish(image: Path, public_key: Path) -> None:
    """Fill a home as in a cloud's image: Python is on the path, and a key opens ssh."""
    (image / ".ssh").mkdir(mode=0o700, parents=True)
    keys = image / ".ssh" / "authorized_keys"
    shutil.copy(public_key, keys)
    keys.chmod(0o600)
    lines = [f"export PATH={Path(sys.base_prefix) / 'bin'}:$PATH"]
    # Packages come from the same index as those of this machine's environment.
    pip = {"PIP_INDEX_URL": _PYPI}
    pip |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    lines += [f"export {name}={shlex.quote(value)}" for name, value in pip.items()]
    lines.append(_PATIENCE)
    (image / ".bashrc").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _fill_host_folder(folder: Path, name: str, address: str = "127.0.1.1") -> None:
    for part in ("home", "work", "tmp"):
        (folder / part).mkdir(parents=True)
    users = Path("/etc/passwd").read_text(encoding="utf-8").splitlines(keepends=True)
    others = [line for line in users if not line.startswith("root:")]
    root = f"root:x:0:0:root:{HOME}:/bin/bash\n"
    (folder / "passwd").write_text("".join([root, *others]), encoding="utf-8")
    # Hosts reach no name server. A look-up without an answer would take ten of the fifteen seconds
    # that Ray gives its agents to start.
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="utf-8")
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n", encoding="utf-8")


def _free_subnet() -> ipaddress.IPv4Network:
    taken = _run("ip", "-brief", "-4", "address")
    free = [f"10.213.{n}.0/24" for n in range(256) if f"10.213.{n}." not in taken]
    return ipaddress.IPv4Network(random.choice(free))


def _namespace(process: psutil.Process) -> str:
    try:
        return os.readlink(f"/proc/{process.pid}/ns/pid")
    except (FileNotFoundError, PermissionError):  # it has ended, or we may not look at it
        return ""


def _try(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(list(command), capture_output=True, text=True)


def _run(*command: str | Path) -> str:
    done = _try(*command)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout
