"""Kill VILA's data chain at random moments, and hold what comes of it against an undisturbed run.

    python benchmarks/chain_kills.py [--kills 20] [--chains recipe web] [--seed 0]

Two chains, each with so many kills:

* ``recipe``: what recipe `vila-tiny` does before it trains, at a smaller size: the synthetic world
  and its web, crawled, selected and rewritten (`fetch_step`), and preparation (`prepare_step`);
* ``web``: the same way over a web that stays, as with data of one's own: pairs selected by their
  scores, documents and pairs crawled in eight shards, rewritten, merged and shuffled into shards,
  and prepared. What was crawled stays where it is when the chain begins again.

A chain is a process that is killed with all that it started (SIGKILL) after a time drawn between
nothing and what it takes undisturbed, and begun again. Where it comes to its end before, the next
round begins from nothing. After every round each file must have the bytes of the undisturbed run,
and there must be no other. Prints one JSON object a chain: where the kills fell, what differed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.blows import PATIENCE, ended, start, strike
from benchmarks.scratch import scratch
from vita_train.data.crawl.run import crawl
from vita_train.data.crawl.settings import CrawlSettings, Limits
from vita_train.data.formats.rewrite import rewrite
from vita_train.data.prepare.run import prepare
from vita_train.data.select.reshard import ReshardSettings, reshard
from vita_train.data.select.top import SCORES, TopSettings, select_top
from vita_train.pipeline.opening import open_run
from vita_train.pipeline.steps import fetch_step, prepare_step
from vita_train.recipe.load import load_recipe

SHARDS, ROWS = 4, 60
#: One URL in so many leads nowhere.
_DEAD_EVERY = 20
RECIPE = """
name: chain
tokenizer: {vocab_size: 400}
model:
  dtype: float32
  llm: {vocab_size: 400, hidden_size: 32, num_layers: 2, num_heads: 4, num_kv_heads: 2,
        intermediate_size: 64, max_positions: 256}
  vision: {kind: siglip, image_size: 32, patch_size: 8, hidden_size: 32, num_layers: 2,
           num_heads: 2, intermediate_size: 64}
  projector: {kind: mlp_downsample}
  speech_decoder: {width: 64}
data:
  source: {own: {kind: records, registry: registry.json}}
  image: {max_tiles: 1}
stages:
  pretrain: {objective: next_token, data: {documents: 1.0, pairs: 1.0}, trainable: {llm: 1.0e-3},
             steps: 2, batch: {global_batch_size: 2, seq_len: 256}}
"""


class RecipeChain:
    """The steps of `vila-tiny` before its stages."""

    def __init__(self, folder: Path) -> None:
        """Write the recipe, smaller."""
        recipe = yaml.safe_load(
            (files("vita_train.recipe") / "presets" / "vila-tiny.yaml").read_text()
        )
        recipe["data"]["source"]["world"]["scale"] = 0.01
        recipe["data"]["source"]["web"] |= {"documents": 60, "pairs": 120, "test_size": 12}
        recipe["storage"] = {"root": str(folder / "runs")}
        self._recipe = folder / "recipe.yaml"
        self._recipe.write_text(yaml.safe_dump(recipe, sort_keys=False))
        self._folder = folder

    def do(self, tell: Callable[[str], object]) -> None:
        """Do the steps; those that are done are left alone."""
        run = open_run(str(self._recipe), "r")[0]
        tell("fetch")
        fetch_step(run)
        tell("prepare")
        prepare_step(run)

    def made(self) -> Iterator[Path]:
        """Yield the files that count: those of the raw data and of the corpus."""
        for made in ("data_fetch/raw", "prepare/corpus"):
            yield from (self._folder / "runs" / "r" / made).rglob("*")

    def remove(self) -> None:
        """Remove all that was made."""
        shutil.rmtree(self._folder / "runs")


class WebChain:
    """The commands from annotations over a web to a prepared corpus.

    Args:
        folder: gets all files.
        url: of a server that has ``folder/web``.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        chance = random.Random(0)
        (folder / "lists").mkdir()
        for shard in range(SHARDS):
            documents = [self._document(shard, row, chance) for row in range(ROWS)]
            (folder / "lists" / f"documents-{shard}.jsonl").write_text(_lines(documents))
            pairs = [self._pair(f"p{shard}-{row}", row, chance) for row in range(2 * ROWS)]
            pq.write_table(pa.Table.from_pylist(pairs), folder / "lists" / f"pairs-{shard}.parquet")
        split = {"roots": {"media": "crawled/media"}}
        datasets = {
            name: {
                "task": "interleaved",
                "train": {"records": f"{name}/part-00000.jsonl", **split},
                "test": {"records": f"{name}/part-00001.jsonl", **split},
            }
            for name in ("documents", "pairs")
        }
        self._registry = {"format": "vita-train/registry/v1", "datasets": datasets}

    def _image(self, name: str, chance: random.Random) -> tuple[str, str]:
        colour, side = tuple(chance.randrange(256) for _ in range(3)), chance.randrange(40, 500)
        if chance.randrange(_DEAD_EVERY):
            data = io.BytesIO()
            Image.new("RGB", (side, 400), colour).save(data, "PNG")
            (self._folder / "web" / f"{name}.png").write_bytes(data.getvalue())
        return f"{self._url}/{name}.png", f"a surface of {colour[0]}, {colour[1]} and {colour[2]}"

    def _document(self, shard: int, row: int, chance: random.Random) -> dict[str, Any]:
        shown = [self._image(f"d{shard}-{row}-{index}", chance) for index in range(1 + row % 3)]
        entries = [
            {"raw_url": url, "matched_text_index": index} for index, (url, _) in enumerate(shown)
        ]
        return {"text_list": [text for _, text in shown], "image_info": entries}

    def _pair(self, name: str, row: int, chance: random.Random) -> dict[str, Any]:
        url, text = self._image(name, chance)
        return {
            "id": row,
            "url": url,
            "text": text,
            **{score: chance.uniform(0.3, 0.5) for score in SCORES},
        }

    def do(self, tell: Callable[[str], object]) -> None:
        """Do what the commands ``data select``, ``crawl``, ``rewrite``, ``reshard`` and ``prepare``
        do."""
        lists, out = self._folder / "lists", self._folder / "out"
        crawled, limits = out / "crawled", Limits(rate=1e6, backoff=0.01)
        tell("select")
        select_top(sorted(lists.glob("*.parquet")), out / "best", TopSettings(share=0.5))
        tell("crawl documents")
        documents = sorted(lists.glob("*.jsonl"))
        crawl(documents, crawled, CrawlSettings("mmc4", private=True), limits, workers=2)
        tell("crawl pairs")
        crawl([out / "best"], crawled, CrawlSettings(private=True), limits)
        tell("rewrite and merge")
        for name, layout in (("documents", "mmc4"), ("pairs", "coyo")):
            shards = [crawled / f"{name}-{shard}.jsonl" for shard in range(SHARDS)]
            rewrite(layout, shards, out / f"{name}.jsonl")
            settings = ReshardSettings(shards=2, seed=1)
            reshard([out / f"{name}.jsonl"], out / name, settings, memory=10_000)
        tell("prepare")
        registry = out / "registry.json"
        registry.write_text(json.dumps(self._registry))
        prepare(load_recipe(RECIPE), registry, out / "corpus", workers=2)

    def made(self) -> Iterator[Path]:
        """Yield the files that count: all but the parts of the corpus, which note when media were
        changed."""
        out = self._folder / "out"
        yield from (path for path in out.rglob("*") if "corpus.parts" not in path.parts)

    def remove(self) -> None:
        """Remove all that was made."""
        shutil.rmtree(self._folder / "out")


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


Chain = RecipeChain | WebChain


def digests(chain: Chain, folder: Path) -> dict[str, str]:
    """Return the digest of each file that a chain made, by its name below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(chain.made())
        if path.is_file()
    }


def kill(chain: Chain, kills: int, folder: Path, chance: random.Random) -> dict[str, Any]:
    """Let so many kills fall on a chain, and say what came of it.

    Raises:
        SystemExit: the chain ended by itself and not well, or not at all.
    """
    place, log = folder / "place.txt", folder / "log.txt"

    def ends(within: float = PATIENCE) -> bool:
        """Begin the chain, kill it after so many seconds, and say whether it ended before."""
        place.write_text("start")
        child = start(lambda: chain.do(place.write_text), log)
        status = ended(child, within)
        if status is None:
            strike(child, "kill", 0.0)
        if status or (status is None and within == PATIENCE):
            raise SystemExit(f"error: the chain fails: {log.read_text()[-3000:]}")
        return status is not None

    began = time.monotonic()
    ends()
    seconds = time.monotonic() - began
    expected = digests(chain, folder)
    differing: set[str] = set()
    fallen: Counter[str] = Counter()
    rounds = 0
    while fallen.total() < kills:
        chain.remove()
        rounds += 1
        while fallen.total() < kills and not ends(chance.uniform(0.0, seconds)):
            fallen[place.read_text() or "between"] += 1
        if fallen.total() == kills:
            ends()
        found = digests(chain, folder)
        names = expected.keys() | found.keys()
        differing.update(name for name in names if expected.get(name) != found.get(name))
    return {
        "kills": dict(fallen),
        "rounds": rounds,
        "files": len(expected),
        "differing": sorted(differing),
        "seconds_undisturbed": round(seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder from a process of its own, which no kill reaches; gives its URL."""
    server = subprocess.Popen(
        [*(sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"),
         *("--directory", str(folder), "--protocol", "HTTP/1.1")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().split(' port ')[1].split()[0]}"
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Kill and print; fail where anything differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--chains", nargs="+", choices=("recipe", "web"), default=["recipe", "web"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    differs = False
    for name in options.chains:
        with scratch() as folder:
            (folder / "web").mkdir()
            with served(folder / "web") as url:
                chain = RecipeChain(folder) if name == "recipe" else WebChain(folder, url)
                outcome = kill(chain, options.kills, folder, random.Random(options.seed))
        print(json.dumps({"chain": name, **outcome}), flush=True)
        differs |= bool(outcome["differing"])
    sys.exit(differs)


if __name__ == "__main__":
    main()
