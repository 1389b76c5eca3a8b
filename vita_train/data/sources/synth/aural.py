"""Datasets with audio: asr, speech_qa, negative, tts."""

from __future__ import annotations

from random import Random

from vita_train.data.sources.synth.knowledge import NOT_FOR_ME, Exchange
from vita_train.data.sources.synth.noises import NOISES
from vita_train.data.sources.synth.plan import Plan, Turns
from vita_train.data.sources.synth.questions import ask
from vita_train.data.sources.synth.scenes import ALL_PAIRS
from vita_train.data.sources.synth.sentences import (
    asr_families,
    radio_talk,
    side_talk,
    spoken,
    tts_families,
)
from vita_train.data.sources.synth.splits import TEST, TRAIN, rng_for
from vita_train.data.sources.synth.textual import TRANSCRIBE, exchanges_of, spoken_question
from vita_train.data.sources.synth.visual import scene_of
from vita_train.data.sources.synth.voices import ASSISTANT, TEST_VOICES, TRAIN_VOICES

TEST_SENTENCES, TEST_NEW_VOICES, TEST_TYPED = "test_sentences", "test_voices", "test_typed"
_QUERIES = {"picture": 0.45, "text": 0.3, "alone": 0.25}
_NEGATIVES = {"side_talk": 0.55, "radio": 0.2, "noise": 0.25}


def add_asr(plan: Plan) -> None:
    """Speech and its transcript."""
    families = asr_families()
    for name, split, number in plan.slices("asr", (TEST_SENTENCES, TEST_NEW_VOICES)):
        rng = rng_for(plan.splits.seed, "asr", name)
        voices = TEST_VOICES if name == TEST_NEW_VOICES else TRAIN_VOICES
        cover = plan.splits.cover if split == TRAIN else ()
        for text in plan.splits.draw_sentences(families, split, number, rng, cover):
            path = plan.say("asr", name, text, voices, rng)
            plan.add("asr", name, [(f"<audio>\n{TRANSCRIBE}", text)], audio=[path])


def add_tts(plan: Plan) -> None:
    """What the assistant says, in its one voice at its usual speed."""
    families = tts_families()
    for name, split, number in plan.slices("tts"):
        rng = rng_for(plan.splits.seed, "tts", name)
        cover = plan.splits.tts_cover if split == TRAIN else ()
        for text in plan.splits.draw_sentences(families, split, number, rng, cover):
            path = plan.clip("tts", name, text, ASSISTANT)
            plan.add("tts", name, [(f"<audio>\n{TRANSCRIBE}", text)], audio=[path])


def add_speech_qa(plan: Plan) -> None:
    """Spoken questions about an image, about a scene in words, or about nothing but knowledge.

    ``test_typed`` asks the questions of ``test`` in writing, record for record.
    """
    for name, split, number in plan.slices("speech_qa"):
        rng = rng_for(plan.splits.seed, "speech_qa", name)
        requests = exchanges_of(plan.splits, split)
        for _ in range(number):
            kind = rng.choices(list(_QUERIES), list(_QUERIES.values()))[0]
            if kind == "alone":
                _add_requests(plan, name, rng.sample(requests, 2 if rng.random() < 0.3 else 1), rng)
            else:
                _add_scene_question(plan, name, split, kind, rng)


def add_negative(plan: Plan) -> None:
    """Audio that is not meant for the assistant; in some records it follows or precedes a genuine
    question."""
    for name, split, number in plan.slices("negative"):
        rng = rng_for(plan.splits.seed, "negative", name)
        requests = exchanges_of(plan.splits, split)
        talk = {
            kind: [text for text in texts if plan.splits.of_sentence(text) == split]
            for kind, texts in (("side_talk", side_talk()), ("radio", radio_talk()))
        }
        for _ in range(number):
            kind = rng.choices(list(_NEGATIVES), list(_NEGATIVES.values()))[0]
            path = _negative_clip(plan, name, kind, talk, rng)
            turns: Turns = [("<audio>", NOT_FOR_ME)]
            audio, inserted = [path], 1
            if rng.random() < 0.4:
                question, answer = rng.choice(requests)
                genuine = plan.say(
                    "negative", name, spoken(question), TRAIN_VOICES, rng, suffix="_q"
                )
                if rng.random() < 0.7:
                    turns, audio, inserted = [("<audio>", answer), *turns], [genuine, path], 3
                else:
                    turns, audio = [*turns, ("<audio>", answer)], [path, genuine]
            plan.add("negative", name, turns, audio=audio, inserted_id=inserted)


def _add_requests(plan: Plan, name: str, asked: list[Exchange], rng: Random) -> None:
    paths = [
        plan.say("speech_qa", name, spoken(question), TRAIN_VOICES, rng, suffix=f"_{place}")
        for place, (question, _) in enumerate(asked)
    ]
    plan.add("speech_qa", name, [("<audio>", answer) for _, answer in asked], audio=paths)
    if name == TEST:
        plan.add("speech_qa", TEST_TYPED, list(asked))


def _add_scene_question(plan: Plan, name: str, split: str, kind: str, rng: Random) -> None:
    with_image = kind == "picture"
    scene = scene_of(plan.splits, split, rng, plan.splits.seen_pairs if with_image else ALL_PAIRS)
    question = spoken_question(lambda: ask(scene, rng), plan.splits, split)
    media = {"set": "pictures", "image": plan.image("speech_qa", name, scene)} if with_image else {}
    head = "<image>" if with_image else scene.caption
    path = plan.say("speech_qa", name, spoken(question.text), TRAIN_VOICES, rng)
    plan.add("speech_qa", name, [(f"{head}\n<audio>", question.answer)], **media, audio=[path])
    if name == TEST:
        plan.add("speech_qa", TEST_TYPED, [(f"{head}\n{question.text}", question.answer)], **media)


def _negative_clip(
    plan: Plan, name: str, kind: str, talk: dict[str, list[str]], rng: Random
) -> str:
    if kind == "noise":
        return plan.clip("negative", name, "", None, effect=rng.choice(NOISES))
    effect = "radio" if kind == "radio" else ""
    return plan.say("negative", name, rng.choice(talk[kind]), TRAIN_VOICES, rng, effect=effect)
