"""Datasets that show images and videos: caption, vqa, multi_image, video."""

from __future__ import annotations

from random import Random

from vita_train.data.sources.synth.pairs import pair_questions
from vita_train.data.sources.synth.plan import Plan, rounds
from vita_train.data.sources.synth.questions import Question, ask, ask_several
from vita_train.data.sources.synth.scenes import Pair, Scene, draw_scene
from vita_train.data.sources.synth.splits import TRAIN, Splits, rng_for
from vita_train.data.sources.synth.videos import Video, draw_video, video_questions

DESCRIBE = "Describe the picture."
SEEN, UNSEEN = "test_seen", "test_unseen"
_MOST_QUESTIONS = 5
_TRIES = 200


def scene_of(
    splits: Splits,
    split: str,
    rng: Random,
    pairs: tuple[Pair, ...],
    *,
    first: Pair | None = None,
    count: int | None = None,
) -> Scene:
    """Draw a scene that belongs to a split."""
    while True:
        scene = draw_scene(rng, pairs, first=first, count=count)
        if splits.of_scene(scene.caption) == split:
            return scene


def scene_pair_of(
    splits: Splits, split: str, rng: Random, pairs: tuple[Pair, ...]
) -> tuple[Scene, Scene]:
    """Draw two scenes of a split: mostly one thing each, and half of those of the same colour."""
    if rng.random() < 0.25:
        return scene_of(splits, split, rng, pairs), scene_of(splits, split, rng, pairs)
    first = scene_of(splits, split, rng, pairs, count=1)
    like = tuple(pair for pair in pairs if pair[0] == first.things[0].colour)
    choice = like if rng.random() < 0.5 else pairs
    return first, scene_of(splits, split, rng, choice, count=1)


def video_of(splits: Splits, split: str, rng: Random, pairs: tuple[Pair, ...]) -> Video:
    """Draw a video that belongs to a split."""
    while True:
        video = draw_video(rng, pairs)
        if splits.of_scene(video.text) == split:
            return video


def scene_questions(
    splits: Splits,
    name: str,
    split: str,
    rng: Random,
    pairs: tuple[Pair, ...],
    asked: set[tuple[str, str]],
) -> tuple[Scene, list[Question]]:
    """Draw a scene with its questions: one to five in training, one in tests, where none is asked
    twice.

    ``asked`` holds the caption and question of every test record so far and is added to. In the
    slice of unseen combinations the question is about a thing of such a combination.
    """
    if split == TRAIN:
        scene = scene_of(splits, split, rng, pairs)
        return scene, ask_several(scene, rng, rng.randint(1, _MOST_QUESTIONS))
    for _ in range(_TRIES):
        first = rng.choice(splits.unseen_pairs) if name == UNSEEN else None
        scene = scene_of(splits, split, rng, pairs, first=first)
        about = next((thing for thing in scene.things if thing.pair == first), None)
        question = ask(scene, rng, about=about)
        if (scene.caption, question.text) not in asked:
            break
    asked.add((scene.caption, question.text))
    return scene, [question]


def add_caption(plan: Plan) -> None:
    """One image, described in full."""
    for name, split, number in plan.slices("caption", (SEEN, UNSEEN)):
        rng = rng_for(plan.splits.seed, "caption", name)
        for _ in range(number):
            first = rng.choice(plan.splits.unseen_pairs) if name == UNSEEN else None
            scene = scene_of(plan.splits, split, rng, plan.splits.seen_pairs, first=first)
            path = plan.image("caption", name, scene)
            plan.add(
                "caption",
                name,
                [(f"<image>\n{DESCRIBE}", scene.caption)],
                set="pictures",
                image=path,
            )


def add_vqa(plan: Plan) -> None:
    """One image and questions on colour, shape, size, place, number and existence."""
    for name, split, number in plan.slices("vqa", (SEEN, UNSEEN)):
        rng = rng_for(plan.splits.seed, "vqa", name)
        asked: set[tuple[str, str]] = set()
        for _ in range(number):
            scene, questions = scene_questions(
                plan.splits, name, split, rng, plan.splits.seen_pairs, asked
            )
            path = plan.image("vqa", name, scene)
            plan.add("vqa", name, rounds("<image>", questions), set="pictures", image=path)


def add_multi_image(plan: Plan) -> None:
    """Two images and questions that compare or tell them apart."""
    for name, split, number in plan.slices("multi_image"):
        rng = rng_for(plan.splits.seed, "multi_image", name)
        for _ in range(number):
            scenes = scene_pair_of(plan.splits, split, rng, plan.splits.seen_pairs)
            most = rng.randint(1, _MOST_QUESTIONS) if split == TRAIN else 1
            questions = pair_questions(*scenes, rng)[:most]
            paths = [
                plan.image("multi_image", name, scene, f"_{place}")
                for place, scene in enumerate(scenes)
            ]
            plan.add(
                "multi_image",
                name,
                rounds("<image>\n<image>", questions),
                set=["pictures"] * 2,
                image=paths,
            )


def add_video(plan: Plan) -> None:
    """A video of four frames and what happens in it."""
    for name, split, number in plan.slices("video"):
        rng = rng_for(plan.splits.seed, "video", name)
        for _ in range(number):
            video = video_of(plan.splits, split, rng, plan.splits.seen_pairs)
            most = rng.randint(1, _MOST_QUESTIONS) if split == TRAIN else 1
            questions = video_questions(video, rng)[:most]
            path = plan.video("video", name, video)
            plan.add("video", name, rounds("<video>", questions), set="films", video=path)
