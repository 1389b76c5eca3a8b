"""Bills of materials: documents that SPDX tools read, which hold what is installed."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: What the SPDX 2.3 JSON schema requires, and the forms that the specification gives.
TEXT = {"type": "string", "minLength": 1}
PACKAGE = {
    "type": "object",
    "required": ["SPDXID", "name", "downloadLocation"],
    "properties": {
        "SPDXID": {"type": "string", "pattern": "^SPDXRef-[A-Za-z0-9.-]+$"},
        "name": TEXT,
        "downloadLocation": TEXT,
        "filesAnalyzed": {"const": False},
        "checksums": {
            "type": "array",
            "items": {
                "required": ["algorithm", "checksumValue"],
                "properties": {
                    "algorithm": {"const": "SHA256"},
                    "checksumValue": {"pattern": "^[0-9a-f]{64}$"},
                },
            },
        },
        "externalRefs": {
            "type": "array",
            "items": {
                "required": ["referenceCategory", "referenceType", "referenceLocator"],
                "properties": {"referenceLocator": {"pattern": "^pkg:[a-z]+/[^ ]+@[^ ]+$"}},
            },
        },
    },
}
DOCUMENT = {
    "type": "object",
    "required": [
        "SPDXID",
        "creationInfo",
        "dataLicense",
        "name",
        "spdxVersion",
        "documentNamespace",
        "packages",
        "relationships",
    ],
    "properties": {
        "spdxVersion": {"const": "SPDX-2.3"},
        "dataLicense": {"const": "CC0-1.0"},
        "SPDXID": {"const": "SPDXRef-DOCUMENT"},
        "documentNamespace": {"type": "string", "pattern": "^[a-z]+:[^#]+$"},
        "creationInfo": {
            "type": "object",
            "required": ["created", "creators"],
            "properties": {
                "created": {"pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"},
                "creators": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"pattern": "^(Tool|Person|Organization): .+"},
                },
            },
        },
        "packages": {"type": "array", "minItems": 2, "items": PACKAGE},
        "relationships": {
            "type": "array",
            "items": {"required": ["spdxElementId", "relationshipType", "relatedSpdxElement"]},
        },
    },
}


def _sbom(*arguments: str) -> dict[str, Any]:
    jsonschema = pytest.importorskip("jsonschema")
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tools" / "sbom.py"),
            *arguments,
            "--lock",
            str(ROOT / "requirements.lock"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(done.stdout)
    jsonschema.validate(document, DOCUMENT)
    names = [one["SPDXID"] for one in document["packages"]]
    assert len(set(names)) == len(names)
    known = {*names, "SPDXRef-DOCUMENT"}
    assert {
        one[end]
        for one in document["relationships"]
        for end in ("spdxElementId", "relatedSpdxElement")
    } <= known
    assert len(document["relationships"]) == len(names), (
        "each part belongs to the subject, and that to the document"
    )
    return dict(document)


def test_an_image_holds_all_that_is_installed_with_licences_and_hashes() -> None:
    document = _sbom("--name", "registry.example:5000/team/x-python:1.2")
    packages = {one["name"]: one for one in document["packages"]}
    assert packages["registry.example:5000/team/x-python"]["versionInfo"] == "1.2"
    assert {"torch", "numpy", "vita-train", "pyyaml"} <= set(packages)
    numpy = packages["numpy"]
    assert numpy["versionInfo"] == version("numpy")
    assert numpy["externalRefs"][0]["referenceLocator"] == f"pkg:pypi/numpy@{version('numpy')}"
    assert packages["jiwer"]["licenseDeclared"] == "Apache-2.0"
    lock = (ROOT / "requirements.lock").read_text()
    if f"numpy=={version('numpy')} " in lock:
        hashes = re.findall(r"\b[0-9a-f]{64}\b", numpy["comment"])
        assert len(hashes) > 3
        assert all(f"--hash=sha256:{one}" in lock for one in hashes)


def test_a_wheel_holds_what_it_needs_and_its_own_hash(tmp_path: Path) -> None:
    wheel = tmp_path / f"vita_train-{version('vita-train')}-py3-none-any.whl"
    wheel.write_bytes(b"the wheel")
    document = _sbom("--wheel", str(wheel))
    subject, *parts = document["packages"]
    assert subject["name"] == "vita-train"
    assert subject["checksums"][0]["checksumValue"] == hashlib.sha256(b"the wheel").hexdigest()
    names = {one["name"] for one in parts}
    assert {"torch", "pydantic-core"} <= names, "also what is needed by what is needed"
    assert not {"pytest", "ruff", "moto"} & names, "extras are not needed"
