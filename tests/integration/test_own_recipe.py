"""A recipe in a user's own words: stages, groups, datasets and sources of its own, and parts of a
plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.errors import shows_code
from tests.helpers.plugin_world import with_plugin, write_plugin, write_records
from vita_train.recipe.presets import preset_path
from vita_train.runs.final import read_final
from vita_train.storage.factory import open_store

COMMON = {
    "steps": 2,
    "batch": {"global_batch_size": 2, "seq_len": 256},
    "eval": {"batches": 1, "max_samples": 2},
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The recipe: two branches that meet, data of three sources."""
    shop, calls = write_records(tmp_path / "mine")
    smoke = preset_path("smoke")
    assert smoke is not None
    recipe: dict[str, Any] = {
        **{
            key: value
            for key, value in yaml.safe_load(smoke.read_text()).items()
            if key in ("model", "tokenizer")
        },
        "name": "shop",
        "data": {
            "source": {
                "photos": {"kind": "records", "registry": str(shop)},
                "calls": {"kind": "records", "registry": str(calls)},
                "made-up": {"kind": "words", "words": ["apple", "pear", "plum", "quince"]},
            },
            "image": {"max_tiles": 1},
        },
        "stages": {
            "language": {
                **COMMON,
                "objective": "louder_tokens",
                "data": {"backwards": 1.0},
                "trainable": {"llm": 1e-3},
                "group": "beginnings",
            },
            "counter": {
                **COMMON,
                "objective": "next_token",
                "data": {"goods": 1.0, "backwards": 0.5},
                "trainable": {"vision": 1e-3, "projector": 1e-3},
                "group": "sight",
            },
            "hotline": {
                **COMMON,
                "objective": "ctc",
                "data": {"hotline": 1.0},
                "trainable": {"audio_encoder": 1e-3, "ctc_head": 1e-3},
                "after": [],
                "group": "audio",
            },
            "clerk": {
                **COMMON,
                "objective": "next_token",
                "data": {"goods": 1.0, "hotline": 1.0},
                "trainable": {"llm": 1e-3, "audio_adapter": 1e-3},
                "after": ["counter", "hotline"],
            },
        },
    }
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return with_plugin(write_plugin(tmp_path / "site"))


def _python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_without_the_plugin_its_names_are_unknown(own: Path) -> None:
    done = _python({**os.environ}, "-m", "vita_train.cli.main", "recipe", "check", str(own))
    assert done.returncode == 2
    assert shows_code(done.stderr, "VT-RECIPE-047", "'louder_tokens'")
    assert shows_code(done.stderr, "VT-RECIPE-045", "made-up.kind", "synth, stamps, records")


def test_a_plugin_that_fails_is_named(
    own: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "site" / "reversing" / "declared.py").write_text("import nothing_of_the_kind\n")
    done = _python(environment, "-m", "vita_train.cli.main", "recipe", "check", str(own))
    assert done.returncode == 2
    assert shows_code(done.stderr, "VT-USE-071", "'reversing'", "ModuleNotFoundError")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_it_goes_from_raw_records_to_the_report(
    own: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = _python(
        environment,
        "-m",
        "vita_train.cli.main",
        "run",
        str(own),
        "--set",
        f"storage.root={tmp_path / 'runs'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    store = open_store(str(tmp_path / "runs"))
    finals = {
        step: read_final(store, f"shop/{step}")
        for step in ("language", "counter", "hotline", "clerk", "evaluate", "export", "report")
    }
    assert all(finals.values())
    clerk, evaluation = finals["clerk"], finals["evaluate"]
    assert clerk is not None
    assert evaluation is not None
    assert {name: ref.stage for name, ref in clerk.modules.items()} == {
        "llm": "clerk",
        "vision": "counter",
        "projector": "counter",
        "audio_encoder": "hotline",
        "ctc_head": "hotline",
        "audio_adapter": "clerk",
    }
    # Each dataset is measured as its task asks, whatever it is called.
    assert {
        "goods.test.accuracy",
        "hotline.test.wer",
        "hotline.test.llm_wer",
        "backwards.test.letters",
        "backwards.test.accuracy",
    } <= set(evaluation.metrics)
    assert "hotline.test.accuracy" not in evaluation.metrics
    page = (tmp_path / "runs" / "shop" / "report" / "report.html").read_text()
    assert all(name in page for name in ("language", "counter", "hotline", "clerk"))
