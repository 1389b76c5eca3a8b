"""Build the synthetic world: plan every record, render the media, write, check for leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita_train.console import say
from vita_train.data.sources.files import write_records
from vita_train.data.sources.registry import Dataset, Registry, SplitSource
from vita_train.data.sources.synth.aural import add_asr, add_negative, add_speech_qa, add_tts
from vita_train.data.sources.synth.espeak import require_synthesiser
from vita_train.data.sources.synth.leaks import FACTS, check_leaks
from vita_train.data.sources.synth.lookup import add_lookup
from vita_train.data.sources.synth.plan import Plan
from vita_train.data.sources.synth.recall import add_recall
from vita_train.data.sources.synth.render import render
from vita_train.data.sources.synth.splits import Splits
from vita_train.data.sources.synth.textual import add_dialogue, add_instruct, add_textqa
from vita_train.data.sources.synth.visual import add_caption, add_multi_image, add_video, add_vqa
from vita_train.data.sources.synth.voices import Voice
from vita_train.errors import DataError
from vita_train.recipe.sources import SynthWorld

MEDIA = "media"
RECORDS = "records"
_ROOTS = {"image": "pictures", "video": "films", "audio": "audio"}
#: Task kinds of the datasets that are not called after theirs.
_TASKS = {"lookup": "recall", "textqa": "qa", "vqa": "qa", "multi_image": "qa", "video": "qa"}
_DATASETS = {
    "recall": add_recall,
    "lookup": add_lookup,
    "caption": add_caption,
    "textqa": add_textqa,
    "instruct": add_instruct,
    "dialogue": add_dialogue,
    "vqa": add_vqa,
    "multi_image": add_multi_image,
    "video": add_video,
    "asr": add_asr,
    "speech_qa": add_speech_qa,
    "negative": add_negative,
    "tts": add_tts,
}


def plan_world(source: SynthWorld, seed: int) -> Plan:
    """Decide every record and every media file; nothing is written."""
    plan = Plan(Splits.cut(seed), source.scale, source.test_size)
    for name, add in _DATASETS.items():
        if not source.datasets or name in source.datasets:
            add(plan)
    return plan


def build_synth(source: SynthWorld, out: Path, *, seed: int, workers: int) -> Registry:
    """Write records, media and facts below ``out``; the caller writes the registry.

    Raises:
        UserError: the synthesiser is missing, or a file cannot be written.
        DataError: the check for leaks found something.
    """
    if source.speaks:
        require_synthesiser()
    plan = plan_world(source, seed)
    render(out / MEDIA, seed, plan.images, plan.videos, plan.clips, workers=workers)
    splits: dict[str, dict[str, SplitSource]] = {}
    for dataset, slices in plan.records.items():
        for name, rows in slices.items():
            path = f"{RECORDS}/{dataset}.{name}.json"
            write_records(out / path, rows)
            kinds = {kind for row in rows for kind in _ROOTS if kind in row}
            roots = {key: MEDIA for kind, key in _ROOTS.items() if kind in kinds}
            splits.setdefault(dataset, {})[name] = SplitSource(records=path, roots=roots)
    (out / FACTS).write_text(
        "".join(json.dumps(fact) + "\n" for fact in _facts(plan)), encoding="utf-8"
    )
    registry = Registry(
        datasets={
            name: Dataset(task=_TASKS.get(name, name), splits=splits[name]) for name in splits
        }
    )
    leaks = check_leaks(registry, out / "registry.json")
    if leaks:
        raise DataError(
            f"{len(leaks)} held-out things stand in training, the first: {leaks[0]}",
            code="VT-DATA-031",
            where=str(out),
            remedy="this is a fault of the generator: try another seed and report this one",
        )
    records = sum(len(rows) for slices in plan.records.values() for rows in slices.values())
    say(
        f"synthetic world: {records} records, {len(plan.images)} images, {len(plan.videos)} "
        f"videos, "
        f"{len(plan.clips)} sounds"
    )
    return registry


def _facts(plan: Plan) -> list[dict[str, Any]]:
    """What each media file shows or says."""
    images = [{"file": image.path, "text": image.scene.caption} for image in plan.images]
    videos = [
        {"file": video_file.path, "text": video_file.video.text} for video_file in plan.videos
    ]
    clips = [
        {"file": clip.path, "text": clip.text, "effect": clip.effect, **_voice_facts(clip.voice)}
        for clip in plan.clips
    ]
    return [*images, *videos, *clips]


def _voice_facts(voice: Voice | None) -> dict[str, Any]:
    return (
        {"voice": voice.name, "rate": voice.rate, "pitch": voice.pitch} if voice else {"voice": ""}
    )
