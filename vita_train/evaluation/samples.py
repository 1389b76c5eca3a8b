"""Samples for people: what the model was asked, what it answered, and how that looks and sounds.

The first samples of each held-out slice are taken, not the best ones.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from vita_train.data.index.sample import Sample
from vita_train.data.media import MediaError
from vita_train.errors import VitaError
from vita_train.evaluation.asr import word_error_rate
from vita_train.evaluation.generation import content_words
from vita_train.evaluation.measures import EvalContext, codec_waves, heard, written
from vita_train.evaluation.tasks import Task
from vita_train.evaluation.tts import resynthesise, speak_sentences
from vita_train.recipe.tasks import TASK_KINDS

FORMAT = "vita-train/samples/v1"
#: Samples of a slice.
PER_SLICE = 4
#: Longer side of an image that is kept, pixels.
MAX_SIDE = 512
_MEDIA = re.compile(r"(?<!\\)<(?:image|video|audio)>\n?")

Write = Callable[[str, bytes], None]
"""Stores a file under a key relative to the samples' list."""


def collect_samples(context: EvalContext, tasks: Sequence[Task], write: Write) -> dict[str, Any]:
    """Return the list of samples, ready for JSON, and write their media.

    Args:
        context: model and data, in eval mode.
        tasks: tasks the model can do.
        write: takes ``media/<name>`` and bytes.
    """
    entries: list[dict[str, Any]] = []
    speaks = any(task.kind == "speech" for task in tasks)
    for task in tasks:
        index = context.corpus.index(task.dataset, task.slice)
        samples = [index.sample(position) for position in range(min(PER_SLICE, len(index)))]
        if task.kind == "replies" and "accuracy" in task.measures:
            entries += _replies(context, samples, write, speaks=speaks)
        elif task.kind == "transcripts":
            entries += _replies(context, samples[:2], write, speaks=False)
        elif task.kind == "resynthesis":
            entries += _resynthesised(context, samples, write)
        elif task.kind == "speech":
            entries += _spoken(context, samples, write)
    return {"format": FORMAT, "samples": entries}


def _replies(
    context: EvalContext, samples: Sequence[Sample], write: Write, *, speaks: bool
) -> list[dict[str, Any]]:
    """Questions with the model's own answers; those to spoken questions are spoken as well if it
    can."""
    answers = written(context, samples)
    aloud = [
        index
        for index, sample in enumerate(samples)
        if speaks and sample.audios and sample.inserted < 0 and answers[index].strip()
    ]
    waves = (
        dict(
            zip(
                aloud,
                speak_sentences(
                    context.modules,
                    context.encode,
                    [answers[index] for index in aloud],
                    device=context.device,
                ),
                strict=True,
            )
        )
        if aloud
        else {}
    )
    entries = []
    for index, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        stem = f"media/{sample.dataset}-{sample.split}-{index}"
        media = _images(sample, stem, write) + _questions(sample, stem, write)
        if index in waves and len(waves[index]):
            media.append(
                _audio(
                    f"{stem}-answer.wav",
                    waves[index],
                    context.recipe.model.codec.sample_rate,
                    write,
                    "the model's spoken answer",
                )
            )
        entries.append(
            {
                "dataset": sample.dataset,
                "slice": sample.split,
                "id": sample.record_id,
                "media": media,
                "question": _question(sample),
                "answer": answer,
                "truth": sample.text,
                **_judgement(context.corpus.tasks[sample.dataset], sample, answer),
            }
        )
    return entries


def _judgement(task: str, sample: Sample, answer: str) -> dict[str, Any]:
    measured = {measure.kind for measure in TASK_KINDS[task].measures}
    if "captions" in measured:
        truth = content_words(sample.text)
        named = (truth & content_words(answer)).total()
        return {"right": None, "note": f"{named} of {truth.total()} attributes named"}
    if "transcripts" in measured:
        wrong = word_error_rate([sample.text], [answer])
        return {"right": wrong == 0, "note": f"word error {100 * wrong:.0f} %"}
    return {"right": answer.strip() == sample.text.strip()}


def _resynthesised(
    context: EvalContext, samples: Sequence[Sample], write: Write
) -> list[dict[str, Any]]:
    """Recordings before and after the codec."""
    waves = codec_waves(context, samples)
    made, _ = resynthesise(context.modules["codec"], waves, device=context.device)
    rate = context.recipe.model.codec.sample_rate
    entries = []
    for index, (sample, text) in enumerate(zip(samples, heard(context, made), strict=True)):
        stem = f"media/{sample.dataset}-{sample.split}-{index}"
        entries.append(
            {
                "title": "Through the codec and back",
                "dataset": sample.dataset,
                "slice": sample.split,
                "id": sample.record_id,
                "question": sample.text,
                "note": f"The recogniser hears: {text}",
                "media": [
                    _audio(f"{stem}-original.wav", waves[index], rate, write, "recording"),
                    _audio(f"{stem}-codec.wav", made[index], rate, write, "after the codec"),
                ],
            }
        )
    return entries


def _spoken(context: EvalContext, samples: Sequence[Sample], write: Write) -> list[dict[str, Any]]:
    """Sentences that the speech decoder says."""
    texts = [sample.text for sample in samples]
    waves = speak_sentences(context.modules, context.encode, texts, device=context.device)
    entries = []
    for index, (sample, text) in enumerate(zip(samples, heard(context, waves), strict=True)):
        if len(waves[index]):
            key = f"media/{sample.dataset}-{sample.split}-{index}-said.wav"
            entries.append(
                {
                    "title": "Read aloud",
                    "dataset": sample.dataset,
                    "slice": sample.split,
                    "id": sample.record_id,
                    "question": sample.text,
                    "note": f"The recogniser hears: {text}",
                    "media": [
                        _audio(
                            key,
                            waves[index],
                            context.recipe.model.codec.sample_rate,
                            write,
                            "the model's voice",
                        )
                    ],
                }
            )
    return entries


def _question(sample: Sample) -> str:
    """Everything said before the last reply, without the places of media."""
    turns = [_MEDIA.sub("", turn).strip() for turn in sample.turns[:-1]]
    return "\n".join(turn for turn in turns if turn)


def _images(sample: Sample, stem: str, write: Write) -> list[dict[str, str]]:
    images: list[Image.Image] = []
    try:
        with sample.local_pixels() as files:
            images = [Image.open(path).convert("RGB") for path in files[: len(sample.images)]]
        if sample.videos:
            images += [Image.fromarray(frame) for frame in sample.load_pixels()]
    except (
        OSError,
        VitaError,
        MediaError,
    ):  # a file that vanished since it was measured costs its image only
        return []
    media = []
    for number, image in enumerate(images):
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        out = io.BytesIO()
        image.save(out, "PNG")
        key = f"{stem}-{number}.png"
        write(key, out.getvalue())
        media.append({"kind": "image", "path": key})
    return media


def _questions(sample: Sample, stem: str, write: Write) -> list[dict[str, str]]:
    rate = sample.settings.data.audio.sample_rate
    label = "not meant for the model" if sample.inserted >= 0 else "what the model hears"
    return [
        _audio(f"{stem}-heard-{clip}.wav", sample.load_wave(clip), rate, write, label)
        for clip in range(len(sample.audios))
    ]


def _audio(key: str, wave: np.ndarray, rate: int, write: Write, label: str) -> dict[str, str]:
    out = io.BytesIO()
    soundfile.write(out, np.clip(wave, -1.0, 1.0), rate, format="WAV", subtype="PCM_16")
    write(key, out.getvalue())
    return {"kind": "audio", "path": key, "label": label}
