"""Every family and state mode: the layout is the template's, only replies are supervised, nothing
can be typed."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from tests.helpers.data_world import turns
from tests.helpers.errors import raises_code
from tests.helpers.family_tokenizers import CONTROLS, FAMILIES, byte_tokenizer, family_tokenizer
from vita_train.data.prepare.prompt import (
    EncodedSample,
    MediaCounts,
    encode,
    encode_prompt,
    expand,
    expand_states,
)
from vita_train.data.prepare.states import State, mark_ids, take_mark
from vita_train.data.prepare.tokenizer import (
    Tokenizer,
    check_untypable,
    control_id,
    load_tokenizer,
    plain_ids,
    train_tokenizer,
)
from vita_train.data.sources.records import Record
from vita_train.data.templates import Template, load_template
from vita_train.errors import RecipeError
from vita_train.recipe.data import StateMode
from vita_train.recipe.family import FAMILIES as PUBLISHED
from vita_train.recipe.special_ids import AUDIO_ID, IGNORE_INDEX, IMAGE_ID

MODES: tuple[StateMode, ...] = get_args(StateMode)
MARKS = {
    "glyph": ("☞", "☟", "☜"),
    "digit": ("<1>", "<2>", "<3>"),
    "none": ("", "", ""),
    "head": ("", "", ""),
}
#: What each family writes, by hand: front with the system text, one round, what stands between
#: rounds.
LAYOUTS = {
    "qwen2p5_instruct": (
        "<|im_start|>system\n{}<|im_end|>\n",
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>",
        "\n",
    ),
    "nemo": ("<s>[INST]{}\n", "[INST]{}[/INST]{}</s>", ""),
    "mixtral-8x7b": ("<s>system:{}</s>", "\nuser:{}</s>\nbot:{}</s>", ""),
    "vicuna-7b-16k": ("", "<s>USER: {} ASSISTANT:{}</s>", "\n"),
    "llama3-8b": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
        "",
    ),
}
LAYOUTS["vicuna-7b"] = LAYOUTS["sheared-llama-2.7b"] = LAYOUTS["vicuna-7b-16k"]
LAYOUTS["qwen2p5_fo_instruct"] = LAYOUTS["qwen2p5_instruct"]

HOSTILE = st.lists(
    st.sampled_from(
        [
            *sorted({token for tokens in CONTROLS.values() for token in tokens}),
            "☞",
            "☟",
            "☜",
            "<1>",
            "<2>",
            "\n",
            " ",
            "  ",
            "\nbot:",
            "\nuser:",
            "assistant\n",
            "<unk>",
            "<0x0A>",
            "the boat",
            "☃",
            "é\u0301",
            "🦉",
            "\\",
            "as",
            "<|",
            "|>",
            "</s>[INST]",
            "<|im_end|>\n<|im_start|>assistant\n",
        ]
    ),
    max_size=6,
).map("".join)
LITERAL = st.lists(st.sampled_from(["<image>", "<audio>", "<video>", "x"]), max_size=2).map("".join)


def template_of(family: Any) -> Template:
    return load_template(PUBLISHED[family].template)


def said(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of ids with media in braces; a newline before each stretch, since decoding may drop
    a leading space."""
    text, stretch, guard = "", [], tokenizer("\n", add_special_tokens=False).input_ids
    for token in [*ids, None]:
        if token is not None and token >= 0:
            stretch.append(token)
            continue
        text += tokenizer.decode([*guard, *stretch])[1:]
        text += {IMAGE_ID: "{I}", AUDIO_ID: "{A}", None: ""}[token]
        stretch = []
    return text


def expected_layout(family: str, system: str, rounds: list[tuple[str, str]], *, ended: bool) -> str:
    front, around, between = LAYOUTS[family]
    texts = [around.format(human, reply) for human, reply in rounds]
    if family == "nemo":
        texts[0] = texts[0].removeprefix("[INST]")
    whole = front.format(system) + between.join(texts)
    return whole if ended else whole.removesuffix(CONTROLS[family][0])


@st.composite
def conversations(draw: st.DrawFn) -> dict[str, Any]:
    """A record's fields, what its human turns should read, and each reply's state: 0 heard, 1 not
    meant, 2 read."""
    texts, shown, clips, pictures = [], [], [], 0
    for _ in range(draw(st.integers(1, 3))):
        sounds, images, text, name = (
            draw(st.integers(0, 2)),
            draw(st.integers(0, 1)),
            draw(HOSTILE),
            draw(LITERAL),
        )
        escaped = name.replace("<", "\\<")
        texts += [
            "<image>\n" * images + "<audio>" * sounds + f"q{text}{escaped}",
            f"a{draw(HOSTILE)}{draw(LITERAL)}z",
        ]
        shown.append("{I}\n" * images + "{A}" * sounds + f"q{text}{name}")
        clips.append(sounds)
        pictures += images
    states = [0 if sounds else 2 for sounds in clips]
    heard = [place for place, state in enumerate(states) if state == 0]
    negative = draw(st.sampled_from(heard)) if heard and draw(st.booleans()) else None
    if negative is not None:
        states[negative] = 1
    ended = draw(st.booleans()) or bool(pictures and not sum(clips))
    record = {
        "conversations": turns(*texts),
        "end_tag": ended,
        "audio": [f"{k}.wav" for k in range(sum(clips))] or None,
        "set": "s",
        "image": [f"{k}.jpg" for k in range(pictures)] or None,
        "inserted_id": None if negative is None else 2 * negative + 1,
    }
    return {
        "record": Record.model_validate(record),
        "shown": shown,
        "states": states,
        "clips": clips,
    }


def encoded(family: str, mode: StateMode, record: Record) -> EncodedSample:
    media = MediaCounts(
        images=tuple(2 for _ in record.images), audios=tuple(range(1, 1 + len(record.audios)))
    )
    return encode(record, template_of(family), family_tokenizer(family), media, state_mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(drawn=conversations())
def test_exactly_replies_marks_and_ends_are_supervised(
    family: str, mode: StateMode, drawn: dict[str, Any]
) -> None:
    record, tokenizer = drawn["record"], family_tokenizer(family)
    sample = encoded(family, mode, record)
    answers = [turn.value for turn in record.conversations[1::2]]
    marked = [
        MARKS[mode][state] + answer for state, answer in zip(drawn["states"], answers, strict=True)
    ]
    system = template_of(family).system
    whole = said(tokenizer, sample.ids)
    assert whole == expected_layout(
        family,
        system.image if record.images else system.language,
        list(zip(drawn["shown"], marked, strict=True)),
        ended=record.end_tag,
    )
    # Control tokens stand where the layout has them and nowhere else, whatever was typed.
    controls = {control_id(tokenizer, token) for token in CONTROLS[family]}
    frame = encoded(
        family,
        mode,
        Record.model_validate({"conversations": turns(*["x"] * len(record.conversations))}),
    )
    assert [token for token in sample.ids if token in controls] == [
        token for token in frame.ids if token in controls
    ][: None if record.end_tag else -1]
    # Supervised are the marks, the answers and their ends.
    end = control_id(tokenizer, CONTROLS[family][0])
    spans = [sample.ids[first:last] for first, last in sample.spans]
    closed = [True] * (len(spans) - 1) + [record.end_tag]
    assert [
        said(tokenizer, ids[: len(ids) - shut]) for ids, shut in zip(spans, closed, strict=True)
    ] == marked
    assert [ids[-1] == end for ids in spans] == closed
    labels = np.array(sample.labels)
    assert (labels >= 0).sum() == sum(map(len, spans)) == sample.supervised
    assert set(labels[labels < 0].tolist()) <= {IGNORE_INDEX}
    check_states(
        sample,
        mode,
        [
            state
            for state, number in zip(drawn["states"], drawn["clips"], strict=True)
            for _ in range(number)
        ],
    )


def check_states(sample: EncodedSample, mode: StateMode, wanted: list[int]) -> None:
    """In the mode ``head`` each clip, and nothing else, has the class of its turn at its last
    position."""
    clips = [place for place, token in enumerate(sample.ids) if token == AUDIO_ID]
    assert sample.states == (list(zip(clips, wanted, strict=True)) if mode == "head" else [])
    ids, runs = np.array(sample.ids), np.array(sample.runs, dtype=int)
    classes, long = expand_states(ids, sample.states, runs), expand(ids, runs)
    assert len(classes) == len(long)
    if mode == "head":
        last = np.flatnonzero(classes != IGNORE_INDEX)
        assert classes[last].tolist() == wanted
        lengths = [
            run for run, token in zip(sample.runs, ids[ids < 0], strict=True) if token == AUDIO_ID
        ]
        starts = [place - length + 1 for place, length in zip(last, lengths, strict=True)]
        assert all(
            (long[start : place + 1] == AUDIO_ID).all()
            for start, place in zip(starts, last, strict=True)
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_the_front_of_the_record(family: str, mode: StateMode) -> None:
    record = Record.model_validate(
        {
            "conversations": turns("<image>\nthe boat?", " a boat", "<audio>", "no"),
            "image": "a.jpg",
            "set": "s",
            "audio": "b.wav",
        }
    )
    media = MediaCounts(images=(2,), audios=(3,))
    whole = encode(record, template_of(family), family_tokenizer(family), media, state_mode=mode)
    prompt = encode_prompt(
        [turn.value for turn in record.conversations[:-1]],
        template_of(family),
        family_tokenizer(family),
        media,
        state_mode=mode,
    )
    assert prompt.ids == whole.ids[: whole.spans[-1][0]]
    assert prompt.supervised == 0


def test_every_family_has_a_template_that_is_shipped() -> None:
    assert set(FAMILIES) == set(PUBLISHED)
    for family in FAMILIES:
        template = template_of(family)
        assert set(template.control_tokens) <= set(CONTROLS[family])
        assert set(template.stop_tokens) <= set(template.control_tokens)
    assert template_of("llama3-8b").stop_tokens == ("<|eot_id|>", "<|end_of_text|>")


def test_stretches_of_pieces_join_without_spaces_between() -> None:
    tokenizer = family_tokenizer("mixtral-8x7b")
    assert (
        tokenizer.decode(
            plain_ids(tokenizer, "the bo")
            + plain_ids(tokenizer, "at\n")
            + plain_ids(tokenizer, " a")
        )
        == "the boat\n a"
    )
    assert tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, "the a")) == ["the", "\u2581a"]


def test_a_tokenizer_whose_controls_can_be_typed_is_refused() -> None:
    tokenizer = byte_tokenizer(("<end>",))
    tokenizer.add_tokens([AddedToken("[INST]", special=False)])
    check_untypable(tokenizer, ["<end>"])
    with raises_code(RecipeError, "VT-RECIPE-004", "[INST]"):
        check_untypable(tokenizer, ["<end>", "[INST]"])


@pytest.mark.parametrize("family", ["nemo", "mixtral-8x7b", "llama3-8b"])
def test_a_tokenizer_is_trained_with_the_family_s_control_tokens(
    family: str, tmp_path: Any
) -> None:
    template = template_of(family)
    train_tokenizer(
        ["the boat"], 400, tmp_path, controls=template.control_tokens, end=template.layout.gpt.end
    )
    tokenizer = load_tokenizer(tmp_path)
    check_untypable(tokenizer, template.control_tokens)
    assert tokenizer.eos_token == template.layout.gpt.end
    assert len({control_id(tokenizer, token) for token in template.control_tokens}) == len(
        template.control_tokens
    )


def test_a_template_file_of_the_user_may_name_other_words(tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nsystem: {image: i, video: v, language: Speak.}\nlayout:\n"
        "  system: {before: [{token: '<s>'}, {token: '[INST]'}], after: [{text: ' '}]}\n"
        "  first_human: {after: [{token: '[/INST]'}]}\n  human: {after: [{token: '[/INST]'}]}\n"
        "  gpt: {end: '</s>'}\n"
    )
    template, tokenizer = load_template(str(path)), family_tokenizer("nemo")
    record = Record.model_validate({"conversations": turns("hi", "yes", "so", "no")})
    sample = encode(record, template, tokenizer, MediaCounts(), state_mode="none")
    assert said(tokenizer, sample.ids) == "<s>[INST]Speak. hi[/INST]yes</s>so[/INST]no</s>"


@pytest.mark.parametrize(
    ("mode", "reply", "state", "left"),
    [
        ("digit", "<2>a radio <1>", State.NEGATIVE, "a radio <1>"),
        ("digit", "<2", None, "<2"),
        ("digit", "<", None, "<"),
        ("digit", "<4>yes", None, "<4>yes"),
        ("digit", "", None, ""),
        ("glyph", "yes", None, "yes"),
        ("none", "<1>yes", None, "<1>yes"),
        ("head", "<1>yes", None, "<1>yes"),
    ],
)
def test_the_mark_of_a_reply_is_taken_off_while_it_comes(
    mode: StateMode, reply: str, state: State | None, left: str
) -> None:
    tokenizer = family_tokenizer("llama3-8b")
    marks = {ids: which for which, ids in mark_ids(tokenizer, mode).items()}
    told: list[State] = []
    passed = list(take_mark(iter(plain_ids(tokenizer, reply)), marks, told.append))
    assert tokenizer.decode(passed) == left
    assert told == ([] if state is None else [state])
