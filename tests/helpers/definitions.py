"""Published resource definitions of Kubeflow Trainer, which are not part of this project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

#: A folder beside the project, or the one that is named.
DEFINITIONS = Path(
    os.environ.get("VITA_TRAIN_CRDS") or Path(__file__).resolve().parents[3] / "shared" / "crds"
)


def trainer_definition(plural: str) -> dict[str, Any]:
    """Return a definition of Trainer v2.3.0, or skip the test where it is not at hand."""
    path = DEFINITIONS / "trainer-v2.3.0" / f"trainer.kubeflow.org_{plural}.yaml"
    if not path.exists():
        pytest.skip(
            f"no definition of {plural} in {DEFINITIONS}; VITA_TRAIN_CRDS names another folder"
        )
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found
