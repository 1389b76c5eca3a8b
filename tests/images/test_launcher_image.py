"""The launcher's image as built: what it can do under restricted settings, what it has not, and how
large it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.helpers.images.engine import ROOT, Engine
from vita_train import __version__

pytestmark = [pytest.mark.images, pytest.mark.slow, pytest.mark.timeout(3600)]

#: Bytes that the image may add to its base.
MOST = 150_000_000


def test_its_health_command_passes(engine: Engine, launcher_image: str) -> None:
    done = engine.run(launcher_image, "python", "-m", "vita_train.preflight.selfcheck", "launcher")
    assert (done.returncode, done.stdout) == (0, f"launcher {__version__}: ok\n"), done.stderr


def test_the_command_line_answers_and_there_is_no_torch(
    engine: Engine, launcher_image: str
) -> None:
    done = engine.run(launcher_image, "vita-train", "--help")
    assert done.returncode == 0, done.stderr
    assert "cluster" in done.stdout
    assert (
        "No module named 'torch'"
        in engine.run(launcher_image, "python", "-c", "import torch").stderr
    )


def test_it_compiles_the_pipelines_for_a_cluster(
    engine: Engine, launcher_image: str, volume: Path
) -> None:
    done = engine.run(
        launcher_image,
        "python",
        "/opt/vita-train/pipelines/compile.py",
        "--out",
        "/cache/compiled",
        "--prefix",
        "team",
        "--launcher-image",
        "registry.example/launcher-python@sha256:0123",
        options=["--volume", f"{volume}:/cache"],
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (ROOT / "pipelines" / "compiled").iterdir()}
    assert {path.name for path in (volume / "compiled").iterdir()} == names
    ladder, platform = yaml.safe_load_all((volume / "compiled" / "ladder.yaml").read_text())
    images = {
        executor["container"]["image"]
        for executor in ladder["deploymentSpec"]["executors"].values()
    }
    assert "registry.example/launcher-python@sha256:0123" in images
    assert "team-platform" in yaml.safe_dump(platform)


def test_it_adds_at_most_150_mb_to_its_base(engine: Engine, launcher_image: str) -> None:
    added = engine.inspect(launcher_image)["Size"] - engine.inspect(engine.base())["Size"]
    assert added <= MOST, f"{added / 1e6:.1f} MB"


def test_it_says_what_it_is_and_runs_as_a_numeric_user(engine: Engine, launcher_image: str) -> None:
    config = engine.inspect(launcher_image)["Config"]
    labels = {
        name.removeprefix("org.opencontainers.image."): text
        for name, text in config["Labels"].items()
    }
    assert labels["title"] == "vita-train launcher"
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert len(labels["revision"]) >= 40
    assert labels["source"] == "https://example.org/vita-train"
    assert config["User"] == "65532:65532"


def test_nothing_is_left_of_the_build(engine: Engine, launcher_image: str) -> None:
    left = " -o ".join(
        f"-path '{place}/*'" for place in ("/tmp", "/var/tmp", "*/.cache", "/src", "/run/secrets")
    )
    done = engine.podman(
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        "0",
        launcher_image,
        "sh",
        "-c",
        f"find / -path /proc -prune -o -path /sys -prune -o -type f \\( {left} \\) -print",
    )
    assert done.stdout == ""


def test_it_can_write_nowhere_but_where_it_is_let(engine: Engine, launcher_image: str) -> None:
    places = (
        "/",
        "/opt",
        "/opt/venv",
        "/opt/vita-train",
        "/etc",
        "/usr/local",
        "/var/tmp",
        "/home",
    )
    done = engine.run(
        launcher_image,
        "sh",
        "-c",
        f"for place in {' '.join(places)} /tmp; do "
        "touch $place/written 2>/dev/null && echo $place; done; true",
    )
    assert done.stdout.split() == ["/tmp"]


def test_the_same_sources_build_the_same_layers(engine: Engine, tmp_path: Path) -> None:
    shipped = (
        line.strip()[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    )
    for name in (*shipped, ".dockerignore"):  # a copy: the checkout may change between the two
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    before = engine.inspect(engine.build("launcher", root=tmp_path))
    assert (
        before["Config"]["Labels"]["org.opencontainers.image.revision"] == "unknown"
    )  # not that of another build
    after = engine.inspect(engine.build("launcher", "--no-cache", root=tmp_path))
    assert after["RootFS"] == before["RootFS"]
    assert after["Config"] == before["Config"]
