"""How full packed rows are and how fast they are planned, for every packing stage of a recipe.

    python benchmarks/packing.py CORPUS [--recipe tiny]

CORPUS is a directory that ``vita-train data prepare`` wrote. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time

from vita_train.data.index.corpus import Corpus
from vita_train.data.sampling.build import packed_order
from vita_train.data.sampling.order import PackedOrder
from vita_train.recipe.load import load_recipe


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus")
    parser.add_argument("--recipe", default="tiny")
    options = parser.parse_args()
    corpus, recipe = Corpus.open(options.corpus), load_recipe(options.recipe)
    results = {}
    for stage, spec in recipe.stages.items():
        if spec.objective != "next_token":
            continue
        order = packed_order(corpus, spec.model_copy(update={"curriculum": []}), seed=recipe.seed)
        assert isinstance(order, PackedOrder)
        start = time.process_time()
        steps = order.steps_per_epoch
        seconds = time.process_time() - start
        tokens = samples = 0
        for step in range(steps):
            for row in order.rows(step):
                tokens += sum(int(order.indexes[ref.dataset].tokens[ref.row]) for ref in row)
                samples += len(row)
        rows = steps * spec.batch.global_batch_size
        results[stage] = {
            "fill": round(tokens / (rows * spec.batch.seq_len), 4),
            "rows": rows,
            "samples": samples,
            "plan_cpu_seconds": round(seconds, 3),
        }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
