"""The finished model of a run: every measure in full, and samples for the report."""

from __future__ import annotations

import json

import torch

from vita_train.data.index.corpus import open_corpus
from vita_train.evaluation.measures import EvalContext, evaluating, measure
from vita_train.evaluation.samples import collect_samples
from vita_train.evaluation.tasks import all_tasks
from vita_train.runs.run import Run
from vita_train.weights.newest import load_newest


def evaluate_run(run: Run, *, max_samples: int | None = None) -> dict[str, float]:
    """Return every measure of a run's newest weights, and write ``evaluate/samples.json`` with its
    media.

    Args:
        run: of which at least one stage is finished.
        max_samples: most samples of a slice; None takes the largest ``eval.max_samples`` of the
            stages.

    Raises:
        UserError: no stage of the run is finished.
        CheckpointError: weights are missing or damaged.
    """
    recipe, corpus = run.recipe, open_corpus(run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    modules = load_newest(run, ctc_vocab_size=len(corpus.ctc_vocab)).to(device)
    max_samples = max_samples or max(spec.eval.max_samples for spec in recipe.stages.values())
    metrics = measure(recipe, corpus, modules, max_samples=max_samples, device=device)
    context = EvalContext(recipe, corpus, modules, device)
    with evaluating(modules), torch.no_grad():
        listed = collect_samples(
            context,
            all_tasks(recipe, corpus, modules.keys()),
            lambda key, data: run.store.write(run.key("evaluate", key), data),
        )
    run.store.write(
        run.key("evaluate", "samples.json"),
        json.dumps(listed, ensure_ascii=False, indent=1).encode(),
    )
    return metrics
