"""What images are built from: lists of requirements that agree with the project, and a build script
that explains."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.helpers.images.engine import ROOT
from vita_train.preflight import selfcheck

KINDS = ("launcher", "data", "trainer")


def _names(requirements: list[str]) -> set[str]:
    return {
        re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in requirements
    }


def _list(path: Path) -> set[str]:
    return _names([line for line in path.read_text().splitlines() if not line.startswith("#")])


@pytest.mark.parametrize("kind", KINDS)
def test_every_requirement_is_locked(kind: str) -> None:
    assert _list(ROOT / "images" / kind / "requirements.txt") <= _list(ROOT / "requirements.lock")


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
