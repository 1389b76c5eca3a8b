"""One rank of a stage's measures: ``python -m tests.integration.training.measures_worker CORPUS``
writes what it got beside the corpus."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.helpers.evaluation_world import small_model, small_recipe
from vita_train.data.index.corpus import Corpus
from vita_train.training.evaluate import measure_stage
from vita_train.training.inputs import Inputs
from vita_train.training.parallel.distributed import process_group, world_from_environment

STAGE = "2.2"


def main() -> None:
    """Measure together with the other ranks."""
    world, recipe = world_from_environment(), small_recipe()
    corpus = Corpus.open(Path(sys.argv[1]))
    with process_group(world, timeout=120):
        found = measure_stage(
            STAGE,
            recipe,
            corpus,
            small_model(recipe, corpus),
            Inputs({}, {}),
            world,
            together=world.size > 1,
        )
    path = Path(sys.argv[1]).parent / f"of-{world.size}-rank-{world.rank}.json"
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
