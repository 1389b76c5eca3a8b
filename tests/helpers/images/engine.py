"""podman on this machine, apart from what its user keeps in it: a base image, builds by
images/build, restricted runs."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
#: Base, layers and images stay here, so that only what changed is built again; may be removed at
#: any time.
CACHE = Path.home() / ".cache" / "vita-train-test" / "images"
#: podman's short-lived state; it keeps to the place it first had.
STATE = Path("/run/vita-train-test-images")
BASE = "localhost/vita-train-test-base:bookworm"
PAUSE = "localhost/vita-train-test-pause:1"
USER = 65532
#: What Pod Security's restricted level and our pods ask for. podman alone would make more than /tmp
#: writable.
RESTRICTED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs",
    "/tmp:rw,mode=1777",
    "--user",
    f"{USER}:{USER}",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--network",
    "none",
    "--pids-limit",
    "512",
)


def missing() -> str:
    """Return what keeps images from being built and run here; empty if nothing does."""
    tools = [name for name in ("podman", "runc", "debootstrap", "tar") if not shutil.which(name)]
    if tools:
        return f"images are built with podman, runc and debootstrap; not there: {', '.join(tools)}"
    return "" if os.geteuid() == 0 else "bootstrapping a base image needs root"


class Engine:
    """podman with storage and settings of its own."""

    def __init__(self, folder: Path) -> None:
        """Write podman's settings into a folder."""
        config, storage = folder / "containers.conf", folder / "storage.conf"
        runtime = Path(__file__).with_name("runtime")
        config.write_text(
            f'[engine]\nruntime = "runc-within-limits"\ntmp_dir = "{STATE}/libpod"\n'
            f'[engine.runtimes]\nrunc-within-limits = ["{runtime}"]\n'
        )
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{CACHE}/storage"\n'
            f'runroot = "{STATE}/run"\n'
        )
        # chroot: building then needs no runtime and no network of its own.
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(config),
            "CONTAINERS_STORAGE_CONF": str(storage),
            "BUILDAH_ISOLATION": "chroot",
        }
        self._folder = folder
        self.sboms = folder / "sbom"

    def podman(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run podman to its end."""
        return self._run(["podman", "--log-level", "error", *arguments], check=check)

    def base(self) -> str:
        """Return the name of a base image: Debian with Python and pip, bootstrapped once."""
        if self.podman("image", "exists", BASE, check=False).returncode:
            archive = CACHE / "base.tar"
            if not archive.exists():
                _bootstrap(archive)
            self.podman("import", "--quiet", str(archive), BASE)
        return BASE

    def build(self, kind: str, *options: str, root: Path = ROOT) -> str:
        """Build an image of a checkout with images/build and return its name."""
        config, certificates = _pip_settings()
        (self._folder / "pip.conf").write_text(config)
        given = [
            "--engine",
            "podman",
            "--base",
            self.base(),
            "--allow-tags",
            "--out",
            str(self.sboms),
            "--tag",
            "localhost/vita-train-test",
            "--source",
            "https://example.org/vita-train",
            "--pip-config",
            str(self._folder / "pip.conf"),
            *(["--ca", certificates] if certificates else []),
        ]
        self._run([str(root / "images" / "build"), *given, kind, "--", *options], check=True)
        return image_of(kind)

    def build_launcher(self) -> str:
        """Build the launcher's image."""
        return self.build("launcher")

    def build_data(self) -> str:
        """Build the data image, with the synthesiser that the shipped recipes' synthetic world
        needs."""
        return self.build("data", "--build-arg", "EXTRA=espeakng-loader")

    def build_trainer(self) -> str:
        """Build the trainer's image on the same base, so without CUDA's compilers and without
        flash-attn."""
        return self.build(
            "trainer", "--build-arg", f"BUILDER_IMAGE={self.base()}", "--build-arg", "FLASH_ATTN="
        )

    def build_pause(self) -> str:
        """Build an image whose container only waits, and so holds the namespaces of a pod."""
        file = self._folder / "pause"
        file.write_text(f'FROM {self.base()}\nENTRYPOINT ["sleep", "infinity"]\n')
        self.podman("build", "--quiet", "--tag", PAUSE, "--file", str(file), str(self._folder))
        return PAUSE

    def pipe(self, images: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start to write images as one archive to the process's output."""
        return subprocess.Popen(
            ["podman", "--log-level", "error", "save", "--quiet", "--multi-image-archive", *images],
            env=self.environment,
            stdout=subprocess.PIPE,
        )

    def run(
        self, image: str, *command: str, options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in an image under the restricted settings."""
        return self.podman("run", "--rm", *RESTRICTED, *options, image, *command, check=False)

    def inspect(self, image: str) -> dict[str, Any]:
        """Return what podman knows of an image."""
        return dict(json.loads(self.podman("image", "inspect", image).stdout)[0])

    def _run(self, command: Sequence[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command[:3])} ended with {done.returncode}:\n"
                f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
        return done


def image_of(kind: str) -> str:
    """Return the name under which an image is built here."""
    from vita_train import __version__

    return f"localhost/vita-train-test-{kind}-python:{__version__}"


def _bootstrap(archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        tree, partial = Path(scratch) / "tree", Path(scratch) / "base.tar"
        subprocess.run(
            [
                "debootstrap",
                "--variant=minbase",
                "--include=python3,python3-pip,ca-certificates",
                "bookworm",
                str(tree),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(
            [
                "tar",
                "-C",
                str(tree),
                "--exclude=./dev/*",
                "--exclude=./var/cache/apt/archives/*.deb",
                "--exclude=./var/lib/apt/lists/*",
                "-cf",
                str(partial),
                ".",
            ],
            check=True,
        )
        partial.rename(archive)


def _pip_settings() -> tuple[str, str]:
    """Return this machine's settings of pip for a build, as a file's text, and the path of its
    certificates, if any."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        found[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    certificates = found.get("cert", "")
    kept = {
        name: found[name]
        for name in ("index-url", "extra-index-url", "trusted-host", "timeout")
        if name in found
    }
    if certificates:
        kept["cert"] = "/run/secrets/ca.pem"
    return "[global]\n" + "".join(
        f"{name} = {value}\n" for name, value in kept.items()
    ), certificates
