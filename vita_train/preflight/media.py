"""Media folders of the records: there, and not empty."""

from __future__ import annotations

from vita_train.errors import DataError
from vita_train.preflight.records import splits_here
from vita_train.runs.run import Run


def check_roots(run: Run) -> str:
    """Say how many media folders the records on this machine name.

    Only what is still to be prepared is looked at: a prepared corpus says itself what it reads.

    Raises:
        DataError: folders are missing or empty; all of them are named.
    """
    if run.final("prepare") is not None:
        return "not looked at again, the data are prepared"
    faults: dict[str, str] = {}
    roots = set()
    for split in splits_here(run):
        for key, root in split.roots.items():
            roots.add(root)
            if fault := split.root_fault(key):
                faults.setdefault(
                    str(root), f"{root} (root {key} of {split.dataset}/{split.split}) {fault}"
                )
    if faults:
        raise DataError(
            "; ".join(faults.values()),
            code="VT-DATA-075",
            where="data.source",
            remedy="fetch or unpack the media, or correct the roots in the registry",
        )
    return f"{len(roots)} on this machine, none is empty" if roots else "none on this machine yet"
