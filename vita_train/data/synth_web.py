"""A web of the synthetic world on this machine, and what VILA's chain makes of it: documents in the
layout of MMC4 and pairs in that of COYO are written, served, selected, crawled and rewritten.

Nothing but the local server is asked. What comes of it does not depend on the port that it gets.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vita_train.console import say
from vita_train.data.crawl.run import crawl
from vita_train.data.crawl.settings import CrawlSettings, Limits
from vita_train.data.formats.rewrite import rewrite
from vita_train.data.select.top import SCORES, TopSettings, select_top
from vita_train.data.sources.registry import Dataset, Registry, SplitSource
from vita_train.data.sources.synth.render import ImageFile, render
from vita_train.data.sources.synth.serve import served
from vita_train.data.sources.synth.splits import DEV, TEST, TRAIN, Splits, rng_for
from vita_train.data.sources.synth.visual import scene_of
from vita_train.recipe.sources import SynthWebSource

#: One document in so many names an image that the web does not have.
_DEAD_EVERY = 20
#: Of the pairs, those with their own caption; the others have that of another image.
_RIGHT = 0.5
_MOST_IMAGES = 3


def build_web(source: SynthWebSource, out: Path, *, seed: int, workers: int) -> Registry:
    """Write records and images below ``out``; the caller writes the registry.

    Datasets are ``documents`` and ``pairs``, each with the splits train, dev and test.

    Raises:
        UserError: a file cannot be written.
        DataError: nothing came of a list.
    """
    plan = _Plan(Splits.cut(seed), seed)
    web, lists = out / "web", out / "lists"
    lists.mkdir()
    for split in (TRAIN, DEV, TEST):
        is_train = split == TRAIN
        plan.add_documents(split, source.documents if is_train else source.test_size)
        plan.add_pairs(split, source.pairs if is_train else source.test_size)
    render(web, seed, plan.images, (), (), workers=workers)
    with served(web) as url:
        for split, rows in plan.documents.items():
            _write_documents(lists / f"documents-{split}.jsonl", rows, url)
        for split, rows in plan.pairs.items():
            _write_pairs(lists / f"pairs-{split}.parquet", rows, url)
        tables = sorted(lists.glob("*.parquet"))
        select_top(tables, lists / "best", TopSettings(share=_RIGHT))
        polite = Limits(rate=1e6, per_host=32, backoff=0.01)
        found = crawl(
            sorted(lists.glob("*.jsonl")),
            out / "crawled",
            CrawlSettings("mmc4", private=True),
            polite,
        )
        found.add(crawl([lists / "best"], out / "crawled", CrawlSettings(private=True), polite))
    say(f"synthetic web: {found.fetched} of {found.urls} images, {found.kept} of {found.rows} rows")
    datasets = {
        name: Dataset(
            task="interleaved",
            splits={split: _split(out, name, layout, split) for split in (TRAIN, DEV, TEST)},
        )
        for name, layout in (("documents", "mmc4"), ("pairs", "coyo"))
    }
    for folder in (web, lists):
        shutil.rmtree(folder)
    for ledger in (out / "crawled").glob("*.json*"):  # they hold the port of the server
        ledger.unlink()
    return Registry(datasets=datasets)


def _split(out: Path, name: str, layout: str, split: str) -> SplitSource:
    records = f"{name}-{split}.jsonl"
    rewrite(layout, [out / "crawled" / records], out / records)
    return SplitSource(records=records, roots={"media": "crawled/media"})


class _Plan:
    """Rows of every list, and the images that they name; URLs are below the server's."""

    def __init__(self, splits: Splits, seed: int) -> None:
        self.splits, self.seed = splits, seed
        self.images: list[ImageFile] = []
        self.documents: dict[str, list[dict[str, Any]]] = {}
        self.pairs: dict[str, list[dict[str, Any]]] = {}

    def add_documents(self, split: str, number: int) -> None:
        """A sentence an image: what it shows. Entries stand in any order."""
        rng = rng_for(self.seed, "web", "documents", split)
        rows = []
        for place in range(number):
            count = rng.randint(1, _MOST_IMAGES)
            shown = [self._image(f"documents/{split}", place, index, rng) for index in range(count)]
            entries = [
                {"raw_url": path, "matched_text_index": index}
                for index, (path, _) in enumerate(shown)
            ]
            if place % _DEAD_EVERY == _DEAD_EVERY - 1:
                entries[0]["raw_url"] = f"gone/{split}/{place}.jpg"
            rng.shuffle(entries)
            rows.append({"text_list": [text for _, text in shown], "image_info": entries})
        self.documents[split] = rows

    def add_pairs(self, split: str, number: int) -> None:
        """An image and a caption, by scores the better half with its own."""
        rng = rng_for(self.seed, "web", "pairs", split)
        shown = [self._image(f"pairs/{split}", place, 0, rng) for place in range(max(number, 2))]
        right = round(_RIGHT * len(shown))
        rows = [
            {
                "url": path,
                "text": text if place < right else shown[place - right][1],
                "score": rng.uniform(0.61, 0.8) if place < right else rng.uniform(0.1, 0.6),
            }
            for place, (path, text) in enumerate(shown)
        ]
        rng.shuffle(rows)
        self.pairs[split] = rows

    def _image(self, folder: str, place: int, index: int, rng: Any) -> tuple[str, str]:
        split = folder.rpartition("/")[2]
        scene = scene_of(self.splits, split, rng, self.splits.seen_pairs)
        path = f"{folder}/{place:05d}-{index}.jpg"
        self.images.append(ImageFile(path, scene))
        return path, scene.caption


def _write_documents(path: Path, rows: list[dict[str, Any]], url: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            entries = [
                {**entry, "raw_url": f"{url}/{entry['raw_url']}"} for entry in row["image_info"]
            ]
            stream.write(json.dumps({**row, "image_info": entries}) + "\n")


def _write_pairs(path: Path, rows: list[dict[str, Any]], url: str) -> None:
    columns = {
        "id": list(range(len(rows))),
        "url": [f"{url}/{row['url']}" for row in rows],
        "text": [row["text"] for row in rows],
        SCORES[0]: [row["score"] for row in rows],
        SCORES[1]: [0.0] * len(rows),
    }
    pq.write_table(pa.table(columns), path)
