"""Exactly the replies are supervised, whatever the text; media and control tokens come from the
record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.data_world import turns
from tests.helpers.errors import raises_code
from vita_train.data.constants import MARK_AUDIO, MARK_NEGATIVE, MARK_TEXT
from vita_train.data.prepare.prompt import MediaCounts, encode, encode_prompt, expand, expand_labels
from vita_train.data.prepare.tokenizer import CONTROLS, Tokenizer, control_id, train_tokenizer
from vita_train.data.sources.records import Record
from vita_train.data.templates import Template, load_template
from vita_train.errors import RecipeError
from vita_train.recipe.special_ids import AUDIO_ID, IGNORE_INDEX, IMAGE_ID

TEMPLATE = load_template("qwen2p5_instruct")
SYSTEM = TEMPLATE.system


def shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Text of ids with media in braces; the tokenizer sees one stretch of text at a time."""
    text, stretch = "", []
    for token in [*ids, None]:
        if token is not None and token >= 0:
            stretch.append(token)
            continue
        text += tokenizer.decode(stretch)
        stretch = []
        text += {IMAGE_ID: "{I}", AUDIO_ID: "{A}", None: ""}[token]
    return text


def record(*texts: str, **fields: Any) -> Record:
    return Record.model_validate({"conversations": turns(*texts), **fields})


def written(tokenizer: Tokenizer, *texts: str, **fields: Any) -> tuple[str, str]:
    """The whole text and the supervised part of a record."""
    made = record(*texts, **fields)
    media = MediaCounts(
        tuple(3 for _ in made.images), tuple(4 for _ in made.videos), tuple(5 for _ in made.audios)
    )
    sample = encode(made, TEMPLATE, tokenizer, media)
    supervised = [label for label in sample.labels if label != IGNORE_INDEX]
    return shown(tokenizer, sample.ids), tokenizer.decode(supervised)


def test_a_typed_conversation(tokenizer: Tokenizer) -> None:
    text, supervised = written(tokenizer, "red or blue?", "red.", "sure?", "yes.")
    assert text == (
        f"<|im_start|>system\n{SYSTEM.language}<|im_end|>\n<|im_start|>user\nred or "
        f"blue?<|im_end|>\n"
        "<|im_start|>assistant\n☜red.<|im_end|>\n<|im_start|>user\nsure?<|im_end|>\n"
        "<|im_start|>assistant\n☜yes.<|im_end|>"
    )
    assert supervised == "☜red.<|im_end|>☜yes.<|im_end|>"


def test_the_worked_example(tokenizer: Tokenizer) -> None:
    text, supervised = written(
        tokenizer,
        "<image>\n<audio>",
        "Six.",
        "Which?",
        "One.",
        image="a.jpg",
        audio=["b.wav"],
        set="s",
    )
    assert f"system\n{SYSTEM.image}<|im_end|>\n<|im_start|>user\n{{I}}\n{{A}}<|im_end|>" in text
    assert supervised == "☞Six.<|im_end|>☜One.<|im_end|>"


def test_sound_not_meant_for_the_assistant(tokenizer: Tokenizer) -> None:
    _, supervised = written(
        tokenizer,
        "<audio>",
        "At ten.",
        "<audio>",
        "A radio play.",
        audio=["a.wav", "b.wav"],
        inserted_id=3,
    )
    assert supervised == "☞At ten.<|im_end|>☟A radio play.<|im_end|>"


def test_an_interrupted_answer_has_no_end(tokenizer: Tokenizer) -> None:
    text, supervised = written(tokenizer, "a", "b", "c", "d", end_tag=False)
    assert supervised == "☜b<|im_end|>☜d"
    assert text.endswith("☜d")


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("<image>\nwhat?", "{I}\nwhat?"),
        ("<image>what?", "{I}\nwhat?"),
        ("what?\n<image>", "{I}\nwhat?"),
        ("what?<image>", "{I}\nwhat?"),
        ("<image>\n<image>\nwhat?", "{I}\n{I}\nwhat?"),
        ("what?\n<image><image>", "{I}\n{I}\nwhat?"),
        ("first <image> then <image> which?", "first {I}\n then {I}\n which?"),
        ("first <image> then <image>", "first {I}\n then {I}\n"),
        ("one\n\n\n\ntwo <image>", "{I}\none\n\n\n\ntwo "),
    ],
)
def test_newlines_around_pictures(tokenizer: Tokenizer, turn: str, expected: str) -> None:
    files = ["a.jpg"] * turn.count("<image>")
    text, _ = written(tokenizer, turn, "b", image=files, set="s")
    assert f"user\n{expected}<|im_end|>" in text


@pytest.mark.parametrize(
    "turn",
    ["{}\nwhat?", "{}what?", "what?\n{}", "what?{}", "one\n{}\ntwo", "one\n\n{} two"],
)
def test_newlines_around_videos_are_those_around_pictures(tokenizer: Tokenizer, turn: str) -> None:
    texts = [
        written(tokenizer, turn.format(f"<{kind}>"), "b", set="s", **{kind: "a"})[0]
        for kind in ("image", "video")
    ]
    image, video = (text.partition("user\n")[2] for text in texts)
    assert video == image  # the system's text differs


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("<audio>\nwrite.", "{A}write."),
        ("write.\n<audio>", "write.\n{A}"),
        ("<audio>\n<image>", "{I}\n{A}"),
        ("<audio>\n\nwrite. <image>", "{I}\n{A}\nwrite. "),
    ],
)
def test_newlines_around_sound(tokenizer: Tokenizer, turn: str, expected: str) -> None:
    images = {"image": "a.jpg", "set": "s"} if "<image>" in turn else {}
    text, _ = written(tokenizer, turn, "b", audio="a.wav", **images)
    assert f"user\n{expected}<|im_end|>" in text


def test_escaped_names_are_text(tokenizer: Tokenizer) -> None:
    text, _ = written(
        tokenizer,
        r"is \<audio> a tag? <image>",
        r"<audio> is, \<image> too",
        image="a.jpg",
        set="s",
    )
    assert "user\n{I}\nis <audio> a tag? <|im_end|>" in text
    assert r"☜<audio> is, \<image> too<|im_end|>" in text


def test_without_state_marks(tokenizer: Tokenizer) -> None:
    sample = encode(record("a", "b"), TEMPLATE, tokenizer, MediaCounts(), state_mode="none")
    assert tokenizer.decode([label for label in sample.labels if label >= 0]) == "b<|im_end|>"


def test_expansion_repeats_each_medium_by_its_run() -> None:
    ids = np.array([7, IMAGE_ID, 8, AUDIO_ID, 9])
    runs = np.array([3, 2])
    assert expand(ids, runs).tolist() == [7, *[IMAGE_ID] * 3, 8, *[AUDIO_ID] * 2, 9]
    labels = np.array([-100, -100, 8, -100, 9])
    assert expand_labels(ids, labels, runs).tolist() == [-100] * 4 + [8] + [-100] * 2 + [9]


def test_a_prompt_is_the_front_of_the_record(tokenizer: Tokenizer) -> None:
    media = MediaCounts(images=(3,), audios=(5,))
    made = record(
        "<image>\nred?", "yes.", "<audio>\nsure", "no.", image="a.jpg", audio="b.wav", set="s"
    )
    whole = encode(made, TEMPLATE, tokenizer, media)
    prompt = encode_prompt(["<image>\nred?", "yes.", "<audio>\nsure"], TEMPLATE, tokenizer, media)
    assert prompt.ids == whole.ids[: whole.spans[-1][0]]
    assert prompt.runs == [3, 5]
    assert prompt.supervised == 0


def test_a_tokenizer_without_the_marks_is_refused(tokenizer: Tokenizer) -> None:
    with raises_code(RecipeError, "VT-RECIPE-003"):
        control_id(tokenizer, "<1>")


HOSTILE = st.lists(
    st.sampled_from(
        [
            "<|im_start|>",
            "<|im_end|>",
            "<|endoftext|>",
            "☞",
            "☟",
            "☜",
            "assistant\n",
            "user\n",
            "\n",
            " ",
            "red",
            "\\",
            "<|im_end|>\n<|im_start|>assistant\n",
            "<image",
            "audio>",
            "[INST]",
            "</s>",
            "\u0301",
            "é",
            "🦉",
            "system",
        ]
    ),
    max_size=8,
).map("".join)
LITERAL = st.lists(st.sampled_from(["<image>", "<audio>", "<video>", "x", "\n"]), max_size=3).map(
    "".join
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_hostile_conversations(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Structure follows the record: spans decode to mark, answer, end; control and media ids are
    counted exactly."""
    rounds = data.draw(st.integers(1, 4))
    texts, answers, marks, media = [], [], [], []
    for _ in range(rounds):
        question = data.draw(HOSTILE)
        sounds = data.draw(st.integers(0, 2))
        media += [AUDIO_ID] * sounds
        texts.append("<audio>" * sounds + "q" + question)
        answers.append("a" + data.draw(HOSTILE) + data.draw(LITERAL) + "z")
        marks.append(MARK_AUDIO if sounds else MARK_TEXT)
    spoken = [place for place, mark in enumerate(marks) if mark == MARK_AUDIO]
    negative = data.draw(st.sampled_from(spoken)) if spoken and data.draw(st.booleans()) else None
    if negative is not None:
        marks[negative] = MARK_NEGATIVE
    ended = data.draw(st.booleans())
    conversation = [text for pair in zip(texts, answers, strict=True) for text in pair]
    made = Record.model_validate(
        {
            "conversations": turns(*conversation),
            "audio": ["f.wav"] * len(media) or None,
            "end_tag": ended,
            "inserted_id": None if negative is None else 2 * negative + 1,
        }
    )
    sample = encode(made, TEMPLATE, tokenizer, MediaCounts(audios=tuple(range(1, len(media) + 1))))

    end, start = control_id(tokenizer, "<|im_end|>"), control_id(tokenizer, "<|im_start|>")
    assert len(sample.spans) == rounds
    for place, (first, last) in enumerate(sample.spans):
        ids = sample.ids[first:last]
        assert ids[0] == control_id(tokenizer, marks[place])
        closed = ended or place + 1 < rounds
        assert (ids[-1] == end) == closed
        body = ids[1:-1] if closed else ids[1:]
        assert tokenizer.decode(body) == tokenizer.backend_tokenizer.normalizer.normalize_str(
            answers[place]
        )
        assert not set(body) & {start, end, *(control_id(tokenizer, mark) for mark in "☞☟☜")}
    assert sample.ids.count(start) == 1 + 2 * rounds
    assert sample.ids.count(end) == 1 + 2 * rounds - (not ended)
    assert [token for token in sample.ids if token < 0] == media
    assert sample.supervised == sum(label != IGNORE_INDEX for label in sample.labels)
    assert sample.tokens == len(expand(np.array(sample.ids), np.array(sample.runs, dtype=int)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("phi3", "{system} USER: hello ASSISTANT: [hi<|endoftext|>]"),
        ("minicpm", "<s>{system} USER: hello ASSISTANT: [hi</s>]"),
        ("llama", "<|begin_of_text|>{system} USER: hello ASSISTANT: [hi<|end_of_text|>]"),
        ("mixtral_zh", "<s>system:{system}</s>\nuser:hello</s>\nbot:[hi</s>]"),
        ("plain", "[hi\n]"),
    ],
)
def test_the_public_templates(name: str, expected: str, tmp_path: Path) -> None:
    template = load_template(name)
    tokenizer = of_template(template, tmp_path)
    sample = encode(record("hello", "hi"), template, tokenizer, MediaCounts(), state_mode="none")
    before, supervised = expected.format(system=template.system.language)[:-1].split("[")
    whole = before + supervised
    if name == "plain":
        whole = supervised  # the question is dropped, for a caption has none
    assert tokenizer.decode(sample.ids) == whole
    labels = [label for label in sample.labels if label != IGNORE_INDEX]
    assert tokenizer.decode(labels) == supervised


def test_plain_keeps_the_picture_and_drops_the_question(tmp_path: Path) -> None:
    template = load_template("plain")
    tokenizer = of_template(template, tmp_path)
    captioned = record("<image>\nwhat is it?", "a red ball", image="a.png", set="pics")
    sample = encode(captioned, template, tokenizer, MediaCounts((4,)), state_mode="none")
    assert sample.ids[0] == IMAGE_ID
    assert tokenizer.decode(sample.ids[1:]) == "a red ball\n"


def of_template(template: Template, folder: Path) -> Tokenizer:
    """A tokenizer trained with a template's control tokens."""
    end = template.layout.gpt.end or CONTROLS[-1]
    controls = template.control_tokens or CONTROLS
    return train_tokenizer(["hello hi a red ball"], 400, folder, controls=controls, end=end)


def document(
    tokenizer: Tokenizer, text: str | list[str], images: int
) -> tuple[str, str, list[int]]:
    """The whole text, the supervised part, and the tokens of each image of a document."""
    names = {"image": [f"{index}.jpg" for index in range(images)]} if images else {}
    made = Record.model_validate({"document": text, **names})
    sample = encode(made, TEMPLATE, tokenizer, MediaCounts((3,) * images))
    ids, runs = np.array(sample.ids), np.array(sample.runs)
    labels = expand_labels(ids, np.array(sample.labels), runs)
    expanded = expand(ids, runs)
    assert (labels[expanded == IMAGE_ID] == IGNORE_INDEX).all()
    assert sample.supervised == (labels != IGNORE_INDEX).sum()
    supervised = [int(label) for label in labels if label != IGNORE_INDEX]
    return shown(tokenizer, sample.ids), tokenizer.decode(supervised), sample.runs


def test_v20_all_the_text_of_a_document_is_supervised_and_no_image(tokenizer: Tokenizer) -> None:
    text, supervised, runs = document(tokenizer, "<image>\nred <image>\nblue", 2)
    assert text == "{I}\nred {I}\nblue<|im_end|>"
    assert supervised == "\nred \nblue<|im_end|>"
    assert runs == [3, 3]


def test_v21_each_of_several_documents_ends(tokenizer: Tokenizer) -> None:
    text, supervised, _ = document(tokenizer, ["<image>\nred", "<image>\nblue"], 2)
    assert text == "{I}\nred<|im_end|>{I}\nblue<|im_end|>"
    assert supervised == "\nred<|im_end|>\nblue<|im_end|>"


def test_the_first_token_of_a_text_has_nothing_to_be_predicted_from(tokenizer: Tokenizer) -> None:
    sample = encode(
        Record.model_validate({"document": "red \\<image>"}), TEMPLATE, tokenizer, MediaCounts()
    )
    assert sample.labels[0] == IGNORE_INDEX
    assert IGNORE_INDEX not in sample.labels[1:]
    assert shown(tokenizer, sample.ids) == "red <image><|im_end|>"


@pytest.mark.parametrize(
    "fields",
    [
        {"document": ""},
        {"document": []},
        {"document": "<image>", "image": "a.jpg"},
        {"document": ["red", " "]},
        {"document": "red <image>"},
        {"document": "red", "image": "a.jpg"},
        {"document": "red", "conversations": turns("a", "b")},
        {"document": "<audio>\nred", "audio": "a.wav"},
        {"document": "red", "end_tag": False},
    ],
)
def test_what_is_no_document(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"document|<image>|conversations"):
        Record.model_validate(fields)
