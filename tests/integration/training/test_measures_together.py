"""A stage's measures on several ranks: each takes a share, all know the whole, as one alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.evaluation_world import small_corpus, small_recipe
from tests.integration.training import ranks
from vita_train.data.index.corpus import Corpus
from vita_train.evaluation.measures import task_cost
from vita_train.evaluation.tasks import all_tasks
from vita_train.recipe.modules import MODULES
from vita_train.training.evaluate import shared_out

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return small_corpus(tmp_path_factory.mktemp("measures"), small_recipe(), records=8)


def test_two_ranks_measure_what_one_does(corpus: Corpus) -> None:
    measured = []
    for count in (1, 2):
        code, output = ranks.run("measures_worker", str(corpus.path), ranks=count)
        assert code == 0, output[-4000:]
        for rank in range(count):
            path: Path = corpus.path.parent / f"of-{count}-rank-{rank}.json"
            measured.append(json.loads(path.read_text()))
    alone, first, second = measured
    assert list(first) == list(second) == list(alone)
    assert first == second
    assert first == pytest.approx(alone, abs=1e-5)
    assert len(alone) > 5


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_every_task_is_measured_once_and_no_rank_has_far_more_than_another(
    corpus: Corpus, count: int
) -> None:
    tasks = all_tasks(small_recipe(), corpus, MODULES)
    parts = shared_out(tasks, corpus, 400, count)
    assert len(parts) == count
    assert sorted(map(str, tasks)) == sorted(str(task) for part in parts for task in part)
    costs = {task: task_cost(task, corpus, 400) for task in tasks}
    loads = [sum(costs[task] for task in part) for part in parts]
    assert max(loads) - min(loads) <= max(costs.values())
    assert parts == shared_out(tasks, corpus, 400, count)
