"""``vita-train data check``: what it runs and prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import typer

from vita_train.data.check.page import write_page
from vita_train.data.check.run import (
    FINDINGS,
    CheckReport,
    CheckSettings,
    OnReject,
    check_sources,
)
from vita_train.data.check.run import check as check_registry
from vita_train.data.check.targets import open_target
from vita_train.data.prepare.ledger import reject_line
from vita_train.data.sources.reading import Reject
from vita_train.errors import DataError, UserError
from vita_train.recipe.load import load_recipe
from vita_train.storage.whole_file import whole_file


def run_check(
    target: Path,
    registry: Path | None,
    recipe_settings: Sequence[str],
    *,
    roots: Sequence[str],
    adapter: str | None,
    lenient: Sequence[str],
    max_rejects: float,
    fail_on: tuple[str, ...],
    media: bool,
    rejects: Path | None,
    html: Path | None,
    json_out: Path | None,
    workers: int,
    limit: int,
) -> None:
    """Check, print, write what was asked for.

    Raises:
        DataError: the data are turned down, or cannot be read.
        UserError: the options contradict each other.
    """
    if unknown := sorted(set(fail_on) - set(FINDINGS)):
        raise UserError(
            f"there is no finding {unknown[0]!r}",
            code="VT-USE-133",
            where="--fail-on",
            remedy=f"there are {', '.join(FINDINGS)}",
        )
    if registry is not None and (max_rejects or not media):
        raise UserError(
            "--max-rejects and --no-media are for checks without a recipe",
            code="VT-USE-134",
            where="data check",
            remedy="set data.max_reject_share in the recipe",
        )
    sources = open_target(registry or target, roots=roots, adapter=adapter, lenient=lenient)
    with ExitStack() as stack:
        on_reject = stack.enter_context(_writing(rejects)) if rejects else None
        if registry is not None:
            report = check_registry(
                registry,
                load_recipe(str(target), list(recipe_settings)),
                workers=workers,
                on_reject=on_reject,
                fail_on=fail_on,
            )
        else:
            settings = CheckSettings(max_rejects, fail_on, media)
            report = check_sources(sources, settings, workers=workers, on_reject=on_reject)
    _print(report, limit)
    if json_out:
        _write(json_out, json.dumps(as_json(report), indent=1) + "\n")
    if html:
        write_page(html, report, sources, f"Check of {(registry or target).name}")
    ledger = report.ledger
    if not report.ok:
        raise DataError(
            "; ".join(report.faults[:3]),
            code="VT-DATA-001",
            where=str(registry or target),
            remedy="correct the records, or allow some: "
            + ("data.max_reject_share" if registry else "--max-rejects"),
        )
    typer.echo(
        f"{registry or target}: ok, {ledger.used} of {ledger.records} records can be used, "
        f"{ledger.rejected} rejected"
    )


def as_json(report: CheckReport) -> dict[str, object]:
    """Return the counts of a check as plain values."""
    return {
        "ok": report.ok,
        "records": report.ledger.records,
        "used": report.ledger.used,
        "rejected": report.ledger.rejected,
        "reasons": dict(sorted(report.reasons.items())),
        "findings": dict(sorted(report.found.items())),
        "splits": [split.model_dump() for split in report.ledger.splits],
        "media": {
            kind: {
                "files": facts.files,
                "seconds": round(facts.seconds, 3),
                "shortest": round(facts.shortest, 3),
                "longest": round(facts.longest, 3),
                "sizes": dict(sorted(facts.sizes.items())),
                "rates": dict(sorted(facts.rates.items())),
            }
            for kind, facts in sorted(report.media.items())
        },
        "faults": report.faults,
        "notes": report.notes,
    }


def _print(report: CheckReport, limit: int) -> None:
    for dataset, split, reject in report.rejects[:limit]:
        typer.echo(reject_line(dataset, split, reject), nl=False)
    for title, counts in (("rejected", report.reasons), ("found", report.found)):
        for name, count in counts.most_common():
            typer.echo(f"{title}: {name} {count}")
    for note in report.notes:
        typer.echo(f"note: {note}")


@contextmanager
def _writing(path: Path) -> Iterator[OnReject]:
    """A rejects file, whole or not at all."""
    with _opened(path) as stream:

        def write(dataset: str, split: str, reject: Reject) -> None:
            stream.write(reject_line(dataset, split, reject))

        yield write


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(whole_file(path))
        except OSError as error:
            raise UserError(
                f"cannot be written: {error.strerror}",
                code="VT-USE-135",
                where=str(path),
                remedy="give another path",
            ) from error
        yield stream


def _write(path: Path, text: str) -> None:
    with _opened(path) as stream:
        stream.write(text)
