"""From annotations over a web of our own to an interleaved corpus and its held-out loss."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.evaluation_world import small_model, small_recipe
from tests.helpers.hostile_http import hostile_http
from vita_train.data.crawl.run import crawl
from vita_train.data.crawl.settings import CrawlSettings, Limits
from vita_train.data.formats.rewrite import rewrite
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.run import prepare
from vita_train.evaluation.measures import measure
from vita_train.recipe.special_ids import IGNORE_INDEX, IMAGE_ID

DOCUMENTS, PAIRS = 9, 8


def test_v20_v21_from_annotation_to_held_out_loss(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    with hostile_http() as web:
        for place in range(PAIRS):
            data = io.BytesIO()
            Image.new("RGB", (40, 30), (place * 30, 0, 0)).save(data, "PNG")
            web.files[f"/{place}.png"] = data.getvalue()
        documents = [
            {
                "text_list": ["red or", "blue", f"or {place}"],
                "image_info": [
                    {"raw_url": f"{web.url}/{(place + i) % 10}.png", "matched_text_index": i}
                    for i in range(2)
                ],
            }
            for place in range(DOCUMENTS)
        ]
        pairs = [{"url": f"{web.url}/{place}.png", "text": f"{place}"} for place in range(PAIRS)]
        (lists / "docs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
        (lists / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in pairs))
        limits = Limits(rate=1e6, backoff=0.01)
        out = tmp_path / "crawled"
        kept = crawl([lists / "docs.jsonl"], out, CrawlSettings("mmc4", private=True), limits)
        assert (kept.kept, kept.dropped.total()) == (DOCUMENTS - 2, 2)  # 8.png and 9.png are dead
        crawl([lists / "pairs.jsonl"], out, CrawlSettings(private=True), limits)
    rewrite("mmc4", [out / "docs.jsonl"], tmp_path / "papers.jsonl")
    rewrite("coyo", [out / "pairs.jsonl"], tmp_path / "pairs.jsonl")

    def dataset(name: str) -> dict[str, object]:
        source = {"records": f"{name}.jsonl", "roots": {"media": "crawled/media"}}
        return {"task": "interleaved", "train": source, "test": source}

    registry = tmp_path / "registry.json"
    datasets = {name: dataset(name) for name in ("papers", "pairs")}
    registry.write_text(json.dumps({"format": "vita-train/registry/v1", "datasets": datasets}))
    stage = {
        "objective": "next_token",
        "data": {"papers": 1.0, "pairs": 1.0},
        "trainable": dict.fromkeys(("llm", "vision", "projector"), 1e-3),
        "steps": 2,
        "batch": {"global_batch_size": 2, "seq_len": 256},
    }
    made = small_recipe(stages={"pretrain": stage})
    ledger = prepare(made, registry, tmp_path / "corpus", progress=lambda _: None)
    assert ledger.rejected == 0
    corpus = Corpus.open(tmp_path / "corpus")
    assert len(corpus.index("pairs", "train")) == PAIRS // 4
    for name in datasets:
        index = corpus.index(name, "train")
        for place in range(len(index)):
            ids, labels = index.sample(place).expanded()
            is_image = ids == IMAGE_ID
            assert (labels[is_image] == IGNORE_INDEX).all()
            assert (np.asarray(labels)[~is_image] != IGNORE_INDEX).all()
    found = measure(made, corpus, small_model(made, corpus))
    assert set(found) == {"papers.test.loss", "pairs.test.loss"}
    assert all(math.isfinite(value) and value > 0 for value in found.values())
