"""What a model answered to held-out samples: part of the report, and a page of its own."""

from __future__ import annotations

from typing import Any

from vita_train.report.collect import RunReader, RunView, read_run
from vita_train.report.media import audio_clip, image_uri
from vita_train.report.page import render_page
from vita_train.storage.base import Store

_WORDS = ("title", "dataset", "slice", "question", "answer", "truth", "note")


def build_sheet(*stores: Store) -> str:
    """Return the page with the samples of an evaluation; a file is taken from the first store that
    has it."""
    reader = RunReader(stores)
    run = read_run(reader)
    samples = sorted_samples(run, reader)
    number = sum(len(listed) for listed in samples.values())
    return render_page("sheet.html.j2", run=run, samples=samples, number=number, every_truth=True)


def sorted_samples(run: RunView, reader: RunReader) -> dict[str, list[dict[str, Any]]]:
    """Sort samples into those to look at, to listen to and to read, with their media inlined."""
    found: dict[str, list[dict[str, Any]]] = {"look": [], "listen": [], "read": []}
    for sample in run.samples:
        entry: dict[str, Any] = {
            "images": [],
            "sounds": [],
            **{key: str(sample.get(key, "")) for key in _WORDS},
            "right": sample.get("right"),
        }
        for item in sample.get("media", ()):
            _add_media(entry, item, reader)
        section = "listen" if entry["sounds"] else "look" if entry["images"] else "read"
        found[section].append(entry)
    return found


def _add_media(entry: dict[str, Any], item: dict[str, Any], reader: RunReader) -> None:
    data = reader.read(f"evaluate/{item.get('path')}") if isinstance(item, dict) else None
    if data is None:
        return
    if item.get("kind") == "image":
        uri = image_uri(data)
        if uri:
            entry["images"].append(uri)
    elif clip := audio_clip(data):
        uri, wave, seconds = clip
        entry["sounds"].append(
            {"uri": uri, "wave": wave, "seconds": seconds, "label": str(item.get("label", ""))}
        )
