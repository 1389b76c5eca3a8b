"""What is to be written: records of every dataset and split, and the media they name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from vita_train.data.sources.synth.questions import Question
from vita_train.data.sources.synth.render import Clip, ImageFile, VideoFile
from vita_train.data.sources.synth.scenes import Scene
from vita_train.data.sources.synth.splits import DEV, TEST, TRAIN, Splits
from vita_train.data.sources.synth.videos import Video
from vita_train.data.sources.synth.voices import Voice, vary

#: Training records at scale 1.
TRAIN_SIZES: dict[str, int] = {
    "recall": 20000,
    "lookup": 20000,
    "caption": 4000,
    "textqa": 40000,
    "instruct": 12000,
    "dialogue": 2000,
    "vqa": 5000,
    "multi_image": 1200,
    "video": 600,
    "asr": 5000,
    "speech_qa": 3000,
    "negative": 1200,
    "tts": 2000,
}
_FEWEST = 8

Turns = list[tuple[str, str]]
"""What the human says and what the assistant answers, round by round."""


@dataclass
class Plan:
    """Records and media jobs, collected dataset by dataset in a fixed order."""

    splits: Splits
    scale: float
    test_size: int
    records: dict[str, dict[str, list[dict[str, Any]]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    images: list[ImageFile] = field(default_factory=list)
    videos: list[VideoFile] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    _said: set[tuple[str, Voice]] = field(default_factory=set)

    def slices(
        self, dataset: str, tests: Sequence[str] = (TEST,)
    ) -> Iterator[tuple[str, str, int]]:
        """Yield slice name, split its content is drawn from, and number of records."""
        yield TRAIN, TRAIN, max(_FEWEST, round(TRAIN_SIZES[dataset] * self.scale))
        yield DEV, DEV, self.test_size
        for name in tests:
            yield name, TEST, self.test_size

    def add(self, dataset: str, name: str, turns: Turns, **media: Any) -> None:
        """Append a record; its id counts up within the slice."""
        rows = self.records[dataset].setdefault(name, [])
        conversations = []
        for human, answer in turns:
            conversations += [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]
        rows.append(
            {"id": f"{dataset}-{name}-{len(rows):05d}", **media, "conversations": conversations}
        )

    def image(self, dataset: str, name: str, scene: Scene, suffix: str = "") -> str:
        """Order an image for the next record of a slice; returns its path below the media
        folder."""
        path = self._path(dataset, name, suffix, "jpg")
        self.images.append(ImageFile(path, scene))
        return path

    def video(self, dataset: str, name: str, video: Video) -> str:
        """Order a video for the next record of a slice."""
        path = self._path(dataset, name, "", "mp4")
        self.videos.append(VideoFile(path, video))
        return path

    def clip(
        self,
        dataset: str,
        name: str,
        text: str,
        voice: Voice | None,
        *,
        effect: str = "",
        suffix: str = "",
    ) -> str:
        """Order a sound for the next record of a slice."""
        path = self._path(dataset, name, suffix, "wav")
        self.clips.append(Clip(path, text, voice, effect))
        return path

    def say(
        self,
        dataset: str,
        name: str,
        text: str,
        voices: Sequence[Voice],
        rng: Random,
        *,
        effect: str = "",
        suffix: str = "",
    ) -> str:
        """Order speech by one of some voices, a little varied, such that no two clips of the world
        are the same."""
        voice = vary(rng.choice(voices), rng)
        while (text, voice) in self._said:
            voice = replace(voice, rate=voice.rate + 1)
        self._said.add((text, voice))
        return self.clip(dataset, name, text, voice, effect=effect, suffix=suffix)

    def _path(self, dataset: str, name: str, suffix: str, ending: str) -> str:
        return f"{dataset}/{name}/{len(self.records[dataset].get(name, [])):05d}{suffix}.{ending}"


def rounds(head: str, questions: Sequence[Question]) -> Turns:
    """Turns that open with ``head`` (a placeholder or a scene in words) and ask the questions in
    turn."""
    return [
        (f"{head}\n{question.text}" if place == 0 else question.text, question.answer)
        for place, question in enumerate(questions)
    ]
