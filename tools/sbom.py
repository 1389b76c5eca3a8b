"""Prints what is installed as a bill of materials: SPDX 2.3, as JSON.

    python tools/sbom.py --name IMAGE --lock requirements.lock     # this Python, Debian's packages
    python tools/sbom.py --wheel dist/FILE.whl --lock requirements.lock      # it and what it needs

Names, versions and licences are those that the packages state of themselves; hashes come from the
lock. The wheel must be installed in the Python that this runs in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Any

from pins import plain, read_pins

UNSAID = "NOASSERTION"
#: Older metadata state a licence in words of any kind; what these mean is beyond doubt.
_MEANT = {
    **{
        name: name
        for name in (
            "Apache-2.0",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "HPND",
            "ISC",
            "LGPL-2.1-or-later",
            "MIT",
            "MIT-CMU",
            "MPL-2.0",
            "PSF-2.0",
            "Unlicense",
            "Zlib",
        )
    },
    **dict.fromkeys(
        (
            "Apache 2.0",
            "Apache License 2.0",
            "Apache License Version 2.0",
            "Apache Software License 2.0",
        ),
        "Apache-2.0",
    ),
    **dict.fromkeys(("BSD 3-Clause License", "3-Clause BSD License"), "BSD-3-Clause"),
    "BSD 2-Clause License": "BSD-2-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_STATUS = Path("/var/lib/dpkg/status")


def package(
    name: str,
    version: str,
    *,
    url: str,
    licence: str = "",
    words: str = "",
    comment: str = "",
    sha256: str = "",
) -> dict[str, Any]:
    """Return a package's entry.

    Args:
        name, version: of it.
        url: package URL (purl) without name and version; empty for none.
        licence: an SPDX expression.
        words: its licence in words, where there is no expression.
        comment: what else is known.
        sha256: of the file that it came as, where that is known.
    """
    if "LicenseRef-" in licence:  # would have to be explained in the document
        licence, words = "", licence
    licence = licence or _MEANT.get(words, "")
    entry = {
        "SPDXID": _reference(url, name, version),
        "name": name,
        "versionInfo": version,
        "downloadLocation": UNSAID,
        "filesAnalyzed": False,
        "copyrightText": UNSAID,
        "licenseConcluded": UNSAID,
        "licenseDeclared": licence or UNSAID,
    }
    if url:
        entry["externalRefs"] = [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": f"{url}/{name}@{version}",
            }
        ]
    if sha256:
        entry["checksums"] = [{"algorithm": "SHA256", "checksumValue": sha256}]
    if words and not licence:
        entry["licenseComments"] = f"It says: {words}"
    return entry | ({"comment": comment} if comment else {})


def _reference(*parts: str) -> str:
    return "SPDXRef-" + re.sub(
        r"[^A-Za-z0-9.-]+", "-", "-".join(part for part in parts if part)
    ).strip("-")


def python_packages(found: Iterable[Distribution], lock: Path | None) -> list[dict[str, Any]]:
    """Return an entry for each distribution, with the hashes that the lock has of it."""
    locks = sorted(lock.glob("*.lock")) if lock and lock.is_dir() else [lock] if lock else []
    pins = {(pin.name, pin.version): pin.hashes for one in locks for pin in read_pins(one)}
    entries = {}
    for one in found:
        name = plain(one.metadata["Name"])
        hashes = pins.get((name, one.version), [])
        several = (
            f"It came as one of the files with these SHA-256: {', '.join(hashes)}"
            if len(hashes) > 1
            else ""
        )
        words = one.metadata.get("License") or "; ".join(
            text.rpartition(" :: ")[2]
            for text in one.metadata.get_all("Classifier") or ()
            if text.startswith("License")
        )
        entries[name] = package(
            name,
            one.version,
            url="pkg:pypi",
            licence=one.metadata.get("License-Expression") or "",
            words=words.strip().partition("\n")[0],
            comment=several,
            sha256=hashes[0] if len(hashes) == 1 else "",
        )
    return [entries[name] for name in sorted(entries)]


def debian_packages(status: Path = _STATUS) -> list[dict[str, Any]]:
    """Return an entry for each installed package of Debian's kind; none on other systems."""
    entries = []
    for block in (
        status.read_text(encoding="utf-8", errors="replace").split("\n\n")
        if status.exists()
        else ()
    ):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " "
        )
        if fields.get("Status", "").endswith(" installed"):
            entries.append(package(fields["Package"], fields["Version"], url="pkg:deb/debian"))
    return entries


def needed(name: str) -> list[Distribution]:
    """Return what a distribution needs of this Python, and what that needs; not itself."""
    from packaging.requirements import Requirement

    found: dict[str, Distribution] = {}
    waiting = [(name, frozenset[str]())]
    seen = set(waiting)
    while waiting:
        current, extras = waiting.pop()
        one = distribution(current)
        if plain(current) != plain(name):
            found[plain(current)] = one
        for text in one.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            ):
                further = (plain(requirement.name), frozenset(requirement.extras))
                waiting += [] if further in seen else [further]
                seen.add(further)
    return list(found.values())


def document(subject: dict[str, Any], parts: list[dict[str, Any]], relation: str) -> dict[str, Any]:
    """Return the document that says that a subject has these parts.

    Args:
        subject, parts: entries as `package` makes them.
        relation: CONTAINS or DEPENDS_ON.
    """
    described = [subject, *parts]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    relations = [
        ("SPDXRef-DOCUMENT", "DESCRIBES", subject["SPDXID"]),
        *((subject["SPDXID"], relation, part["SPDXID"]) for part in parts),
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{subject['name']} {subject['versionInfo']}".strip(),
        "documentNamespace": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "creationInfo": {
            "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: vita-train-sbom"],
        },
        "packages": described,
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in relations
        ],
    }


def main() -> None:
    """Print the bill of materials that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--name", help="of the image that this runs in")
    subject.add_argument("--wheel", type=Path)
    parser.add_argument("--lock", type=Path, help="a lock, or a folder of locks")
    asked = parser.parse_args()
    if asked.wheel:
        name, version = asked.wheel.name.split("-")[:2]
        licence = distribution(name).metadata.get("License-Expression") or ""
        wheel = package(
            plain(name),
            version,
            url="pkg:pypi",
            licence=licence,
            sha256=hashlib.sha256(asked.wheel.read_bytes()).hexdigest(),
        )
        made = document(wheel, python_packages(needed(name), asked.lock), "DEPENDS_ON")
    else:
        name, _, version = asked.name.rpartition(":")
        image = package(name or version, version if name else "", url="")
        made = document(
            image, [*python_packages(distributions(), asked.lock), *debian_packages()], "CONTAINS"
        )
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
