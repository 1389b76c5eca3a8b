"""The page of a check: what was counted, and records to look at and listen to.

Nothing from the data is trusted: text is escaped, media are encoded anew, and the page may load
nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vita_train.data.check.examine import media_of, plain_settings
from vita_train.data.check.run import FINDINGS, CheckReport, Shown
from vita_train.data.media import MediaError
from vita_train.data.media.apart import Decoder
from vita_train.data.sources.reading import Row
from vita_train.data.sources.source import RecordSource
from vita_train.errors import VitaError
from vita_train.page import page_environment
from vita_train.printable import printable, printable_lines
from vita_train.storage.whole_file import whole_file

#: Characters of a turn that are shown.
_MOST = 1200
_TYPES = {"image": "image/jpeg", "video": "image/jpeg", "audio": "audio/wav"}


def render_page(report: CheckReport, sources: Sequence[RecordSource], title: str) -> str:
    """Return the page as HTML."""
    environment = page_environment("vita_train.data.check")
    by_name = {(source.dataset, source.split): source for source in sources}
    with Decoder(plain_settings(preview=True)) as decoder:

        def cards(shown: Sequence[Shown]) -> list[dict[str, Any]]:
            return [_card(each, by_name.get((each.dataset, each.split)), decoder) for each in shown]

        return environment.get_template("check.html.j2").render(
            title=title,
            ledger=report.ledger,
            faults=report.faults,
            notes=report.notes,
            reasons=[
                (reason, count, cards(report.examples.get(reason, [])))
                for reason, count in report.reasons.most_common()
            ],
            found=[
                (name, count, FINDINGS[name], cards(report.examples.get(name, [])))
                for name, count in report.found.most_common()
            ],
            media=sorted(report.media.items()),
            samples=cards(report.samples),
        )


def _card(shown: Shown, source: RecordSource | None, decoder: Decoder) -> dict[str, Any]:
    row = shown.row
    card: dict[str, Any] = {
        "place": f"{shown.dataset}/{shown.split}, row {row.row}",
        "id": printable(row.id),
        "detail": printable(shown.detail),
        "turns": [],
        "media": [],
    }
    if isinstance(row, Row):
        card["turns"] = [
            (turn.role, printable_lines(turn.value)[:_MOST]) for turn in row.record.conversations
        ] or [("document", printable_lines(text)[:_MOST]) for text in row.record.texts]
        if source is not None:
            card["media"] = _previews(row, source, decoder)
    return card


def _previews(row: Row, source: RecordSource, decoder: Decoder) -> list[tuple[str, str]]:
    """Return kind and data URI of the media that can be decoded."""
    found: list[tuple[str, str]] = []
    with suppress(MediaError):
        for file in media_of(row, source.roots):
            with suppress(MediaError, VitaError):
                details = decoder.measure(file).details
                if details is not None and details.preview:
                    data = base64.b64encode(details.preview).decode()
                    found.append((file.kind, f"data:{_TYPES[file.kind]};base64,{data}"))
    return found


def write_page(
    path: Path, report: CheckReport, sources: Sequence[RecordSource], title: str
) -> None:
    """Write the page, whole or not at all."""
    with whole_file(path) as stream:
        stream.write(render_page(report, sources, title))
