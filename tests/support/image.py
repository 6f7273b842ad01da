"""Builds a Dockerfile without Docker, by running its steps in a chroot. Needs root.

What a step does to the file system is real: Debian comes from debootstrap, packages from apt and
pip, each stage has a layer of overlayfs, and steps run as their own user. What Docker itself adds
is missing: images from a registry, limits, and a separate network.
"""

import fnmatch
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

_DEBIAN = "debian:12."
"""Prefix of the base images for which debootstrap makes an equal substitute."""
_RELEASE, _MIRROR = "bookworm", "http://deb.debian.org/debian"


@dataclass(slots=True)
class Stage:
    """The state of a stage after the steps so far, and where its files are.

    Attributes:
        layers: folders that lie over each other, the uppermost first. Only that one is the stage's
            own.
    """

    layers: list[Path]
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    folder: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    labels: str = ""

    def child(self, layer: Path) -> "Stage":
        return Stage(
            [layer, *self.layers],
            dict(self.environment),
            {},
            self.shell,
            self.folder,
            self.user,
            self.command,
            self.labels,
        )


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, without comments."""
    parser = DockerfileParser(path=str(dockerfile))
    entries = [(entry["instruction"], entry["value"]) for entry in parser.structure]
    return [(name, value) for name, value in entries if name != "COMMENT"]


def stages(dockerfile: Path) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name, `FROM` first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, value in instructions(dockerfile):
        if name == "FROM":
            _, as_, stage = value.split()
            assert as_.upper() == "AS"
            found[stage] = []
        found[stage].append((name, value))
    return found


class Replay:
    """Builds the stages of a Dockerfile that a target needs, one after another.

    Args:
        context: the build context, with the Dockerfile.
        work: a folder for layers, which take several GB.
        debian: the root folder of a Debian; by default one is made.
    """

    def __init__(
        self, context: Path, work: Path, build_args: Mapping[str, str], debian: Path | None = None
    ) -> None:
        self._stages = stages(context / "Dockerfile")
        self._work = work
        self._build_args = build_args
        self._debian = debian
        self._done: dict[str, Stage] = {}
        self._context = work / "context"
        copy_context(context, self._context)
        self._host = _HostPip(work / "host")

    def build(self, target: str) -> Stage:
        """Build the stages that a stage needs, and then that stage."""
        if target in self._done:
            return self._done[target]
        (_, source), *steps = self._stages[target]
        stage = self._from(source.split()[0]).child(self._folder(target))
        for name, value in steps:
            self._step(stage, name, value)
        self._done[target] = stage
        return stage

    def run(
        self, stage: Stage, command: Sequence[str], binds: Mapping[Path, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in a stage, as the stage's user and with its environment.

        Args:
            binds: folders of this machine -> where they appear in the stage.
        """
        folder = shlex.quote(stage.folder)
        words = shlex.join(command)
        home = "/root" if stage.user.startswith("0") else "/home/murmur"
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            **stage.environment,
        }
        chroot = [
            *("chroot", f"--userspec={stage.user}", "ROOT"),
            *("/usr/bin/env", "--ignore-environment"),
            *(f"{name}={value}" for name, value in environment.items()),
            *("/bin/bash", "-c", f"cd {folder} && exec {words}"),
        ]
        return self._mounted(stage, shlex.join(chroot).replace("ROOT", '"$ROOT"'), binds or {})

    def _from(self, source: str) -> Stage:
        if source in self._stages:
            return self.build(source)
        assert source.startswith(_DEBIAN), f"{source} cannot be made here"
        root = self._debian or self._work / "debian"
        if not root.exists():
            subprocess.run(
                ["debootstrap", "--variant=minbase", _RELEASE, str(root), _MIRROR],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        return Stage([root])

    def _step(self, stage: Stage, name: str, value: str) -> None:
        match name:
            case "RUN":
                assert not value.startswith("-"), f"RUN {value}: its flags are not known here"
                self._run_step(stage, value)
            case "COPY":
                self._copy_step(stage, value.split())
            case "ENV":
                stage.environment |= _pairs(value)
            case "ARG":
                argument, _, default = value.partition("=")
                stage.arguments[argument] = self._build_args.get(argument, default)
            case "WORKDIR":
                stage.folder = str(Path(stage.folder) / value)
                self._checked(stage, f'mkdir -p "$ROOT{stage.folder}"')
            case "USER":
                stage.user = value
            case "SHELL":
                stage.shell = json.loads(value)
            case "CMD":
                stage.command = json.loads(value)
            case "LABEL":
                stage.labels = value
            case _:
                raise AssertionError(f"{name} is not known here")

    def _run_step(self, stage: Stage, value: str) -> None:
        with_pip = stage.child(stage.layers[0])
        with_pip.layers = stage.layers
        with_pip.environment |= stage.arguments | self._host.environment
        done = self.run(with_pip, [*stage.shell, value], self._host.binds)
        assert done.returncode == 0, f"RUN {value}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"

    def _copy_step(self, stage: Stage, words: list[str]) -> None:
        source = self._context
        mount = ""
        if words[0].startswith("--"):
            flag, _, name = words[0].partition("=")
            assert flag == "--from", f"COPY {flag} is not known here"
            other, source = self.build(name), self._folder(f"{name}-seen")
            mount = f"mount -t overlay overlay -o ro,lowerdir={_joined(other.layers)} {source}\n"
            words = words[1:]
        *from_, to = words
        target = Path(stage.folder) / to
        paths = [source / path.lstrip("/") for path in from_]
        lines = [mount]
        if to.endswith("/"):
            lines += [f'cp -a {path} "$ROOT{target}/"' for path in paths]
            target_folder = target
        else:  # a folder's content, as Docker copies it
            lines += [f'cp -a {paths[0]}/. "$ROOT{target}"']
            target_folder = target
        lines.insert(1, f'mkdir -p "$ROOT{target_folder}"')
        self._checked(stage, "\n".join(lines))

    def _checked(self, stage: Stage, script: str) -> None:
        done = self._mounted(stage, script, {})
        assert done.returncode == 0, done.stderr

    def _mounted(
        self, stage: Stage, script: str, binds: Mapping[Path, str]
    ) -> "subprocess.CompletedProcess[str]":
        """Run a script that sees the stage in $ROOT. The mounts are its own and end with it."""
        upper, *lower = stage.layers
        scratch, root = self._folder("overlay-scratch"), self._folder("root")
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"mount -t overlay overlay "
            f"-o lowerdir={_joined(lower)},upperdir={upper},workdir={scratch} {root}",
            f"mount --rbind /dev {root}/dev",
            f"mount -t proc proc {root}/proc",
            f"mount -t tmpfs tmpfs {root}/run",
            # Docker, too, takes this file from the host and keeps it out of the layers.
            f"touch {root}/etc/resolv.conf",
            f"mount --bind /etc/resolv.conf {root}/etc/resolv.conf",
            *(
                f"mkdir -p {root}{seen} && mount --bind -o ro {path} {root}{seen}"
                for path, seen in binds.items()
            ),
            f"export ROOT={root}",
            script,
        ]
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "bash", "-c", "\n".join(lines)],
            capture_output=True,
            text=True,
            check=False,
        )

    def _folder(self, name: str) -> Path:
        path = self._work / name
        path.mkdir(exist_ok=True)
        return path


class _HostPip:
    """Lets pip in a chroot reach packages as this machine's pip does: pip's settings become
    variables, and the files and folders that they name become binds. None of it is in the image."""

    def __init__(self, copies: Path) -> None:
        self.environment: dict[str, str] = {}
        self.binds: dict[Path, str] = {}
        self._copies = copies
        copies.mkdir()
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            check=True,
        )
        for line in listed.stdout.splitlines():
            name, _, value = line.partition("=")
            section, _, option = name.rpartition(".")
            if section in ("global", ":env:"):
                words = (self._seen(word) for word in value.strip("'\"").split())
                self.environment[f"PIP_{option.upper().replace('-', '_')}"] = " ".join(words)
        if any(copies.iterdir()):
            self.binds[copies] = "/run/host"

    def _seen(self, word: str) -> str:
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.is_dir():
            # Pages of an index may link to files beside the index.
            folder = path.parent if path.name == "simple" else path
            self.binds[folder] = str(folder)
        elif path.is_absolute() and path.is_file():
            shutil.copy(path, self._copies / path.name)
            return f"/run/host/{path.name}"
        return word


def copy_context(context: Path, to: Path) -> None:
    """Copy what .dockerignore allows. The last pattern that matches a path or one of its parents
    decides."""
    lines = (context / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    for folder, folders, names in os.walk(context):
        # Nothing below an ignored folder can be allowed again.
        inside = Path(folder).relative_to(context)
        folders[:] = [name for name in folders if not _is_ignored(inside / name, patterns)]
        for name in names:
            path = Path(folder, name).relative_to(context)
            if not _is_ignored(path, patterns):
                (to / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(context / path, to / path)


def _is_ignored(path: Path, patterns: Sequence[str]) -> bool:
    ignored = False
    steps = [path, *path.parents[:-1]]
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        for step in steps:
            subject = step.name if bare.startswith("**/") else str(step)
            anywhere = bare.removeprefix("**/")
            is_top = bare != "*" or len(step.parts) == 1
            if is_top and fnmatch.fnmatchcase(subject, anywhere):
                ignored = not pattern.startswith("!")
    return ignored


def _joined(layers: Sequence[Path]) -> str:
    return ":".join(map(str, layers))


def _pairs(value: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(value))
