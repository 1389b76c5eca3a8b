"""Training from media shards on an S3 server of this machine beside training from local files.

    python benchmarks/ranged_media.py [--images 400] [--rounds 3] [--workers 1]

Prepares a corpus of photographs' sizes, packs it, and trains a small convolutional network on its
batches, in turn from local files and from the shards, through a cache that holds a tenth of the
corpus and is empty at first. The server is a process of its own. Prints one JSON object; ``ratio``
is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import torch
from PIL import Image

from tests.helpers.s3_server import ACCESS_KEY, SECRET_KEY
from vita_train.data.index.corpus import Corpus
from vita_train.data.index.media_shards import TABLE, ShardedMedia, shards_of
from vita_train.data.loading.batch import Batch
from vita_train.data.loading.collate import collate_rows
from vita_train.data.packing.media import pack_media
from vita_train.data.prepare.run import prepare
from vita_train.data.sampling.order import PackedOrder
from vita_train.data.sampling.pack import Budgets
from vita_train.recipe.load import load_recipe
from vita_train.storage.s3 import S3Store
from vita_train.training.batches import AHEAD, BatchLoader

RECIPE = """
name: ranged
tokenizer: {vocab_size: 400}
model:
  dtype: float32
  llm: {vocab_size: 512, hidden_size: 64, num_layers: 2, num_heads: 4, num_kv_heads: 2,
      max_positions: 8192}
  speech_decoder: {width: 64}
data:
  source: {own: {kind: records, registry: registry.json}}
  image: {max_tiles: 4}
stages:
  "1.1": {objective: next_token, data: {d: 1.0}, trainable: {llm: 1.0e-3}, steps: 2,
          batch: {global_batch_size: 2, seq_len: 4096, max_tiles: 16}}
"""
_SERVE = """
import sys, time
from pathlib import Path
from tests.helpers.s3_server import serve_s3
with serve_s3(Path(sys.argv[1])) as server:
    print(server.endpoint, server.kind, flush=True)
    time.sleep(1e6)
"""


class Rows:
    """Makes batches of packed rows."""

    def __call__(self, rows: Any, *, seed: int) -> Batch:
        return collate_rows(rows, pad_id=0, seq_len=4096)


def write_corpus(at: Path, images: int) -> int:
    """Write and prepare it; return the bytes of its media."""
    chance = np.random.default_rng(0)
    (at / "pics").mkdir()
    rows = []
    for number in range(images):
        coarse = Image.fromarray(chance.integers(0, 255, (30, 40, 3), np.uint8))
        coarse.resize((1024, 768)).save(at / "pics" / f"{number}.jpg", quality=92)
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A."}]
        rows.append(
            {"id": str(number), "set": "pics", "image": f"{number}.jpg", "conversations": turns}
        )
    (at / "rows.json").write_text(json.dumps(rows))
    (at / "recipe.yaml").write_text(RECIPE)
    split = {"records": "rows.json", "roots": {"pics": "pics"}}
    (at / "registry.json").write_text(
        json.dumps({"datasets": {"d": {"task": "caption", "train": split}}})
    )
    prepare(load_recipe(str(at / "recipe.yaml")), at / "registry.json", at / "corpus")
    return sum(path.stat().st_size for path in (at / "pics").iterdir())


def train(corpus: Corpus, workers: int, steps: int, ahead: int) -> float:
    """Train over so many steps; return samples a second."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 7, 4), torch.nn.GELU(), torch.nn.Conv2d(32, 64, 5, 4)
    )
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    order = PackedOrder(
        {"d": corpus.index("d", "train")}, {"d": 1.0}, 2, Budgets(4096, 16, 20000), 0
    )
    loader = BatchLoader(Rows(), order, workers=workers, ahead=ahead)
    seen, start = 0, 0.0
    for step, loaded in enumerate(loader.steps(0, steps)):
        (batch,) = loaded.parts
        if step == 2:  # what starting takes is another matter
            seen, start = 0, time.perf_counter()
        assert batch.tiles is not None
        loss = net(batch.tiles.float() / 255).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(batch.sample_ids)
    return seen / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        size = write_corpus(at, options.images)
        os.environ["VITA_TRAIN_CACHE"] = str(at / "cache")
        (at / "s3").mkdir()
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(at / "s3")], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            endpoint, kind = server.stdout.readline().split()
            bucket = f"b-{uuid.uuid4().hex[:12]}"
            boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
                Bucket=bucket
            )
            files = pack_media(at / "corpus", S3Store(bucket, "r", endpoint=endpoint), "media")
            local = Corpus.open(at / "corpus")
            steps = options.images // 7  # some three samples a row
            found: dict[str, list[float]] = {"local": [], "ranged": []}
            for _ in range(options.rounds):
                found["local"].append(train(local, options.workers, steps, 0))
                shutil.rmtree(at / "cache" / "media", ignore_errors=True)
                shards = ShardedMedia(at / "corpus" / TABLE, shards_of(files), endpoint, size // 10)
                ranged = Corpus.open(at / "corpus", shards)
                found["ranged"].append(train(ranged, options.workers, steps, AHEAD))
                kept = sum(path.stat().st_size for path in (at / "cache").glob("media/??/*"))
        finally:
            server.terminate()
            server.wait()
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    print(
        json.dumps(
            {
                "server": kind,
                "megabytes": round(size / 1e6, 1),
                "cache_megabytes": round(size / 1e7, 1),
                "kept_megabytes": round(kept / 1e6, 1),
                "samples_a_second": {
                    name: [round(rate, 2) for rate in rates] for name, rates in found.items()
                },
                "ratio": round(medians["ranged"] / medians["local"], 3),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
