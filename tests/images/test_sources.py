"""What images are built from: lists of requirements that agree with the project, and a build script
that explains."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.images.engine import ROOT
from vita_train.preflight import selfcheck

KINDS = ("launcher", "data", "trainer")


def _names(requirements: list[str]) -> set[str]:
    return {
        re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in requirements
    }


def _list(path: Path) -> set[str]:
    return _names([line for line in path.read_text().splitlines() if re.match("[A-Za-z0-9]", line)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_requirement_is_locked(kind: str) -> None:
    lock = _list(ROOT / "images" / kind / "requirements.lock")
    assert (
        _list(ROOT / "images" / kind / "requirements.txt")
        <= lock
        <= _list(ROOT / "requirements.lock")
    )


def test_the_trainer_has_what_the_package_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert _list(ROOT / "images" / "trainer" / "requirements.txt") == (
        _names(project["dependencies"]) | _names(project["optional-dependencies"]["quant"])
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_containerfile_states_user_labels_and_health_command(kind: str) -> None:
    text = (ROOT / "images" / kind / "Containerfile").read_text()
    final = text[text.rindex("\nFROM ") :]
    assert "\nUSER 65532:65532\n" in final
    assert f'CMD ["python", "-m", "vita_train.preflight.selfcheck", "{kind}"]' in final
    for label in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{label}=" in final


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name an image"),
        (["launchpad"], "no option or image launchpad"),
        (["--engine", "spade", "launcher"], "spade is no engine"),
        (["--pip-config", "nowhere/pip.conf", "launcher"], "nowhere/pip.conf cannot be read"),
    ],
)
def test_the_build_script_refuses_with_a_reason(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [ROOT / "images" / "build", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_the_self_check_says_in_one_line_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert selfcheck.fault("launcher") == ""
    assert selfcheck.fault("launcher", scratch=str(tmp_path / "gone")).endswith(
        "No such file or directory"
    )
    monkeypatch.setitem(selfcheck.MODULES, "launcher", ("vita_train", "vita_train.no_such_part"))
    assert selfcheck.fault("launcher") == (
        "vita_train.no_such_part cannot be imported: ModuleNotFoundError: No module named "
        "'vita_train.no_such_part'"
    )


def test_a_base_without_a_digest_is_refused_by_name(tmp_path: Path) -> None:
    bases = tmp_path / "bases"
    bases.write_text(
        "# comment\nBASE_IMAGE.launcher python:3 unresolved\nBASE_IMAGE.data python:3 sha256:"
        + "0" * 64
    )
    # An engine that does not work: the refusal of a base comes first.
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\nexit 1\n")
    engine.chmod(0o755)
    run: dict[str, Any] = {
        "env": {"PATH": f"{tmp_path}:/usr/bin:/bin", "VITA_TRAIN_BASES": str(bases)},
        "capture_output": True,
        "text": True,
    }
    build = [ROOT / "images" / "build", "--engine", "docker"]
    refused = subprocess.run([*build, "launcher"], **run, check=False)
    assert refused.returncode == 2
    assert "python:3 has no digest" in refused.stderr
    for passed in (
        ["data"],
        ["--allow-tags", "launcher"],
        ["--base", f"python@sha256:{'1' * 64}", "launcher"],
    ):
        assert "docker is not there" in subprocess.run([*build, *passed], **run, check=False).stderr
    tag = subprocess.run([*build, "--base", "python:3.12", "data"], **run, check=False)
    assert "python:3.12 has no digest" in tag.stderr


def test_every_argument_of_a_containerfile_that_names_an_image_has_a_base() -> None:
    listed = {
        tuple(line.split()[:2])
        for line in (ROOT / "images" / "bases").read_text().splitlines()
        if not line.startswith("#")
    }
    for kind in KINDS:
        text = (ROOT / "images" / kind / "Containerfile").read_text()
        for argument, name in re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", text, re.MULTILINE):
            assert (f"{argument}.{kind}", name) in listed


def test_digests_are_looked_up_and_written(tmp_path: Path) -> None:
    (tmp_path / "bases").write_text("# kept\nBASE_IMAGE.data python:3 unresolved\n")
    skopeo = tmp_path / "skopeo"
    skopeo.write_text('#!/bin/sh\nprintf %s "$3"\n')  # the manifest of an image is its name here
    skopeo.chmod(0o755)
    subprocess.run(
        [ROOT / "images" / "resolve-bases", "mirror.example/"],
        check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "VITA_TRAIN_BASES": str(tmp_path / "bases")},
    )
    comment, line = (tmp_path / "bases").read_text().splitlines()
    assert comment == "# kept"
    digest = hashlib.sha256(b"docker://mirror.example/python:3").hexdigest()
    assert line.split() == ["BASE_IMAGE.data", "python:3", f"sha256:{digest}"]
