"""Held-out measures of a model: ``<dataset>.<slice>.<measure>``, for gates, for the forgetting
table and the report.

Shares lie between 0 and 1; losses are nats a token. The same seed, data and weights give the same
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vita_train.data.index.corpus import Corpus
from vita_train.data.index.sample import Sample
from vita_train.data.prepare.states import State, mark_ids, mark_text
from vita_train.data.prepare.tokenizer import plain_ids
from vita_train.data.templates import load_template
from vita_train.evaluation.asr import error_rates, recognise, word_error_rate
from vita_train.evaluation.generation import recall_of_content, write_replies
from vita_train.evaluation.retrieval import CANDIDATES, caption_losses, retrieval_measures
from vita_train.evaluation.scoring import score_replies, tell_states
from vita_train.evaluation.speech_metrics import codebook_use, mel_distance
from vita_train.evaluation.tasks import Task, all_tasks
from vita_train.evaluation.tts import features_of, resynthesise, speak_sentences
from vita_train.models.omni import Omni
from vita_train.plugins import named
from vita_train.recipe.schema import Recipe

#: Most samples of the measures that generate or read a sample many times; the others take the whole
#: limit.
SLOW_LIMITS = {
    "captions": 200,
    "transcripts": 200,
    "retrieval": 50,
    "codec": 200,
    "resynthesis": 200,
    "speech": 100,
}
#: Room that a generated reply has beyond the longest true one of its slice.
ROOM = 16


@dataclass(frozen=True)
class EvalContext:
    """What every measure is taken with."""

    recipe: Recipe
    corpus: Corpus
    modules: nn.ModuleDict
    device: torch.device

    @property
    def omni(self) -> Omni:
        """The assembled model."""
        return Omni(self.modules)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ordinary text."""
        return plain_ids(self.corpus.tokenizer, text)


def measure(
    recipe: Recipe,
    corpus: Corpus,
    modules: nn.ModuleDict,
    names: Sequence[str] | None = None,
    *,
    max_samples: int = 400,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Return the held-out measures of a model.

    Args:
        recipe: the run's recipe.
        corpus: its prepared data.
        modules: the model's modules, by their names in ``recipe.modules.MODULES``.
        names: measures wanted; None takes all that the modules allow. ``tasks.measures_for`` lists
            a stage's. A wanted measure that cannot be taken with these modules is absent from the
            result, and a gate on it fails.
        max_samples: most samples of a slice.
        device: where the modules are.
    """
    tasks = wanted_tasks(recipe, corpus, modules, names)
    found = measure_tasks(recipe, corpus, modules, tasks, max_samples=max_samples, device=device)
    return {name: value for name, value in found.items() if names is None or name in names}


def wanted_tasks(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, names: Sequence[str] | None
) -> list[Task]:
    """Return the tasks that give some measures, of those that the modules allow; all for None."""
    wanted = None if names is None else set(names)
    return [
        task
        for task in all_tasks(recipe, corpus, modules.keys())
        if wanted is None or wanted.intersection(task.names)
    ]


def task_cost(task: Task, corpus: Corpus, max_samples: int) -> float:
    """Return about how long a task takes, in no unit: kinds that generate, or read a sample many
    times, take a multiple for each."""
    number = _samples(task, corpus, max_samples)
    return number * (max(1.0, 400 / SLOW_LIMITS[task.kind]) * 2 if task.kind in SLOW_LIMITS else 1)


def _samples(task: Task, corpus: Corpus, max_samples: int) -> int:
    """Return how many samples of its slice a task takes."""
    most = min(max_samples, SLOW_LIMITS.get(task.kind, max_samples))
    return min(len(corpus.index(task.dataset, task.slice)), most)


def measure_tasks(
    recipe: Recipe,
    corpus: Corpus,
    modules: nn.ModuleDict,
    tasks: Iterable[Task],
    *,
    max_samples: int = 400,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Return the measures of some tasks; arguments as for `measure`. The modules must be those the
    tasks need."""
    context = EvalContext(recipe, corpus, modules, torch.device(device))
    found: dict[str, float] = {}
    with evaluating(modules), torch.no_grad():
        for task in tasks:
            found |= run_task(context, task, max_samples)
    return found


def run_task(context: EvalContext, task: Task, max_samples: int) -> dict[str, float]:
    """Return the measures of one task over the first samples of its slice."""
    index = context.corpus.index(task.dataset, task.slice)
    number = _samples(task, context.corpus, max_samples)
    samples = [index.sample(position) for position in range(number)]
    values = _measurer(task.kind)(context, samples)
    return {
        name: values[measure]
        for name, measure in zip(task.names, task.measures, strict=True)
        if measure in values and not math.isnan(values[measure])
    }  # of nothing there is no share


def _measurer(kind: str) -> Callable[[EvalContext, Sequence[Sample]], Mapping[str, float]]:
    """Return the function that takes a kind of measures: one of ours, or the plugin's that is named
    by its path."""
    function: Callable[[EvalContext, Sequence[Sample]], Mapping[str, float]] = _TASKS.get(
        kind
    ) or named(kind)
    return function


@contextmanager
def evaluating(modules: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module gets back the mode it had."""
    modes = [(module, module.training) for module in modules.modules()]
    modules.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _replies(context: EvalContext, samples: Sequence[Sample]) -> dict[str, float]:
    """Share of exact replies, loss a token, and share of right state marks, over all rounds of all
    conversations."""
    marks = state_marks(context)
    scored = score_replies(context.omni, samples, marks=marks, device=context.device)
    replies = [reply for conversation in scored for reply in conversation]
    marked = [reply.mark for reply in replies if reply.mark is not None]
    values = {
        "accuracy": _share([reply.exact for reply in replies]),
        "loss": sum(reply.loss_sum for reply in replies)
        / max(1, sum(reply.tokens for reply in replies)),
    }
    return values | ({"state_mark": _share(marked)} if marked else {})


def _states(context: EvalContext, samples: Sequence[Sample]) -> dict[str, float]:
    """Share of clips whose state the head tells right."""
    hits = tell_states(context.omni, samples, device=context.device)
    return {"state_mark": _share(hits)} if hits else {}


def _captions(context: EvalContext, samples: Sequence[Sample]) -> dict[str, float]:
    """Share of the things a true caption names that the model's own caption names too."""
    return {
        "attributes": recall_of_content(
            [sample.text for sample in samples], written(context, samples)
        )
    }


def _transcripts(context: EvalContext, samples: Sequence[Sample]) -> dict[str, float]:
    """Word and character error of what the language model writes of what it hears."""
    return error_rates([sample.text for sample in samples], written(context, samples), "llm_")


def _retrieval(context: EvalContext, samples: Sequence[Sample]) -> dict[str, float]:
    if len(samples) < CANDIDATES:
        return {}
    return retrieval_measures(*caption_losses(context.omni, samples, device=context.device))


def _recogniser(context: EvalContext, samples: Sequence[Sample]) -> dict[str, float]:
    texts = recognise(
        context.modules,
        context.corpus.ctc_vocab,
        [sample.load_fbank() for sample in samples],
        device=context.device,
    )
    return error_rates([sample.text for sample in samples], texts)


def _codec(context: EvalContext, samples: Sequence[Sample]) -> dict[str, float]:
    """Distance of resynthesised speech, different codes in use, and the codes' perplexity, both
    over all codebooks."""
    spec = context.recipe.model.codec
    waves = codec_waves(context, samples)
    made, codes = resynthesise(context.modules["codec"], waves, device=context.device)
    books = torch.arange(spec.num_codebooks) * spec.codebook_size  # no two share a code
    codes = [row.reshape(len(row), -1) + books for row in codes]
    use = codebook_use(codes, spec.num_codebooks * spec.codebook_size)
    distances = [
        mel_distance(wave, other, spec.sample_rate) for wave, other in zip(waves, made, strict=True)
    ]
    return {
        "mel_distance": float(np.mean(distances)),
        "codes_used": float(use.used),
        "perplexity": use.perplexity,
    }


def _resynthesis(context: EvalContext, samples: Sequence[Sample]) -> dict[str, float]:
    """Word error of the model's own recogniser on recordings, and on what the codec makes of
    them."""
    waves = codec_waves(context, samples)
    made, _ = resynthesise(context.modules["codec"], waves, device=context.device)
    truths = [sample.text for sample in samples]
    return {
        "wer_original": word_error_rate(truths, heard(context, waves)),
        "wer_resynthesis": word_error_rate(truths, heard(context, made)),
    }


def _speech(context: EvalContext, samples: Sequence[Sample]) -> dict[str, float]:
    """Word and character error of the model's own recogniser on what the speech decoder says."""
    truths = [sample.text for sample in samples]
    waves = speak_sentences(context.modules, context.encode, truths, device=context.device)
    return error_rates(truths, heard(context, waves))


def state_marks(context: EvalContext) -> frozenset[tuple[int, ...]]:
    """Return the tokens of each state mark, or none where replies carry none."""
    return frozenset(mark_ids(context.corpus.tokenizer, context.recipe.data.state_mode).values())


def written(context: EvalContext, samples: Sequence[Sample]) -> list[str]:
    """Return the model's own last reply to each conversation."""
    longest = max(
        (end - start for sample in samples for start, end in sample.spans[-1:]), default=0
    )
    stops = load_template(context.recipe.data.template).stop_tokens
    marks = [mark_text(state, context.recipe.data.state_mode) for state in State]
    return write_replies(
        context.omni,
        context.corpus.tokenizer,
        samples,
        stops=stops,
        marks=marks,
        max_new_tokens=longest + ROOM,
    )


def codec_waves(context: EvalContext, samples: Sequence[Sample]) -> list[np.ndarray]:
    """Return the recordings at the codec's rate."""
    return [sample.load_wave(0, context.recipe.model.codec.sample_rate) for sample in samples]


def heard(context: EvalContext, waves: Sequence[np.ndarray]) -> list[str]:
    """Return what the model's own recogniser hears in waves at the codec's rate."""
    rate = context.recipe.model.codec.sample_rate
    clips = [features_of(context.recipe, wave, rate) for wave in waves]
    return recognise(context.modules, context.corpus.ctc_vocab, clips, device=context.device)


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")


_TASKS: dict[str, Callable[[EvalContext, Sequence[Sample]], dict[str, float]]] = {
    "replies": _replies,
    "states": _states,
    "captions": _captions,
    "retrieval": _retrieval,
    "transcripts": _transcripts,
    "recogniser": _recogniser,
    "codec": _codec,
    "resynthesis": _resynthesis,
    "speech": _speech,
}
