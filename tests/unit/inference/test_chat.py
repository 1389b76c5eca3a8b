"""Chat puts to the model exactly what training did, remembers, speaks, and turns bad input into one
line."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from tests.helpers.evaluation_world import small_corpus, small_model, small_recipe
from vita_train.cli.model import chat as command
from vita_train.data.index.corpus import Corpus
from vita_train.data.index.sample import Sample
from vita_train.errors import EXIT_REFUSED, UserError
from vita_train.evaluation.generation import prompt_of
from vita_train.inference.chat import Chat, Sampling, open_chat
from vita_train.recipe.special_ids import AUDIO_ID, IMAGE_ID
from vita_train.weights.export import export_model


@dataclass
class Place:
    corpus: Corpus
    export: Path
    media: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("chat")
    recipe = small_recipe()
    corpus = small_corpus(root, recipe)
    export_model(small_model(recipe, corpus), recipe, corpus.path, root / "export")
    return Place(corpus, root / "export", root)


@pytest.fixture
def chat(place: Place) -> Chat:
    return open_chat(str(place.export))


def same_prompt(chat: Chat, sample: Sample, text: str, **media: Any) -> None:
    asked = {"images": [], "audios": [], "video": None, **media}
    prompt = chat.prompt(chat.with_turn(text, asked["images"], asked["audios"], asked["video"]))
    trained = prompt_of(sample)
    assert prompt.input_ids.tolist() == trained.input_ids.tolist()
    for mine, theirs in (
        (prompt.tiles, trained.tiles),
        *zip(prompt.clips, trained.clips, strict=True),
    ):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert torch.equal(mine, theirs)


def test_prompts_and_media_are_those_of_training(place: Place, chat: Chat) -> None:
    same_prompt(
        chat, place.corpus.index("speech_qa", "test_typed").sample(3), "which colour is number 3?"
    )
    picture = place.corpus.index("caption", "test").sample(2)
    same_prompt(chat, picture, "describe it.", images=picture.images)
    spoken = place.corpus.index("speech_qa", "test").sample(5)
    same_prompt(chat, spoken, "", audios=spoken.audios)


def test_a_second_turn_holds_the_first(place: Place, chat: Chat) -> None:
    sample = place.corpus.index("textqa", "test").sample(0)
    chat.conversation.turns = sample.turns[:2]
    same_prompt(chat, sample, sample.turns[2])


def test_a_typed_placeholder_is_text(chat: Chat) -> None:
    prompt = chat.prompt(chat.with_turn("what is <image> and <audio>?", [], [], None))
    assert not {IMAGE_ID, AUDIO_ID} & set(prompt.input_ids.tolist())
    assert "<image>" in chat.tokenizer.decode(prompt.input_ids.tolist())


def test_replies_stream_and_are_remembered(place: Place, chat: Chat) -> None:
    pieces = list(
        chat.ask("describe it.", images=[place.media / "pictures" / "0.png"], max_new_tokens=8)
    )
    assert len(pieces) > 1, "text comes in pieces"
    assert chat.conversation.turns == ["<image>\ndescribe it.", "".join(pieces) or " "]
    again = "".join(
        open_chat(str(place.export)).ask(
            "describe it.", images=[place.media / "pictures" / "0.png"], max_new_tokens=8
        )
    )
    assert again == "".join(pieces)
    list(chat.ask("and?", max_new_tokens=2))
    assert len(chat.conversation.turns) == 4
    assert len(chat.conversation.images) == 1
    chat.reset()
    assert chat.conversation.turns == []


def test_speech_is_a_whole_wav_file(chat: Chat, tmp_path: Path) -> None:
    seconds = chat.speak("say red now", tmp_path / "out.wav")
    wave, rate = soundfile.read(tmp_path / "out.wav")
    assert rate == 16000
    assert len(wave) / rate == pytest.approx(seconds)
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]


def test_replies_are_drawn_by_seed_temperature_and_probability(chat: Chat) -> None:
    def reply(sampling: Sampling) -> str:
        chat.reset()
        chat.sampling = sampling
        return "".join(chat.ask("say red now", max_new_tokens=12))

    likely = reply(Sampling())
    assert reply(Sampling(5.0, 1.0, seed=1)) == reply(Sampling(5.0, 1.0, seed=1))
    assert len({reply(Sampling(5.0, 1.0, seed=seed)) for seed in range(4)}) > 1
    assert reply(Sampling(5.0, 1e-6, seed=1)) == likely, "the fewest tokens are one"


def test_a_reply_sounds_while_it_is_written_as_it_does_afterwards(chat: Chat) -> None:
    events = list(chat.ask_aloud("say red now", max_new_tokens=12))
    reply = "".join(event for event in events if isinstance(event, str))
    assert chat.conversation.turns == ["say red now", reply or " "]
    sound = [event for event in events if not isinstance(event, str)]
    assert all(piece.dtype == np.float32 for piece in sound)
    afterwards = list(chat._speaker().speak(reply))
    assert afterwards, "this reply holds words"
    np.testing.assert_array_equal(np.concatenate(sound), np.concatenate(afterwards))


def test_an_interrupted_reply_is_what_was_said_by_then(chat: Chat) -> None:
    said = chat.ask("say red now", max_new_tokens=12)
    first = [next(said), next(said)]
    said.close()
    assert chat.conversation.turns == ["say red now", "".join(first)]
    again = chat.ask_aloud("and now?", max_new_tokens=12)
    begun = next(again)
    again.close()
    assert chat.conversation.turns[2:] == ["and now?", begun]


def broken_jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        out, "JPEG"
    )
    return out.getvalue()[:400]


BAD: list[tuple[str, bytes | None]] = [
    ("image", None),
    ("image", b""),
    ("image", b"not an image"),
    ("image", broken_jpeg()),
    ("audio", None),
    ("audio", b""),
    ("audio", b"RIFF\x00\x00\x00\x00WAVE"),
    ("audio", b"\x00" * 100),
    ("video", None),
    ("video", b"nothing"),
]


@pytest.mark.parametrize(("kind", "data"), BAD)
def test_a_file_that_cannot_be_used_is_one_line(
    chat: Chat, tmp_path: Path, kind: str, data: bytes | None
) -> None:
    path = tmp_path / "file"
    if data is not None:
        path.write_bytes(data)
    media: dict[str, Any] = {
        "image": {"images": [path]},
        "audio": {"audios": [path]},
        "video": {"video": path},
    }[kind]
    with pytest.raises(UserError) as error:
        list(chat.ask("what is it?", **media))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert error.value.exit_code == EXIT_REFUSED
    assert chat.conversation.turns == [], "a turn that failed is no part of the conversation"


def test_more_than_the_model_can_read_is_refused(chat: Chat) -> None:
    with raises_code(UserError, "VT-DATA-032", "positions"):
        list(chat.ask("word " * 400))


def test_what_the_model_lacks_is_named(place: Place, chat: Chat) -> None:
    del chat.modules["vision"]
    del chat.modules["speech_decoder"]
    with raises_code(UserError, "VT-USE-045"):
        list(chat.ask("what?", images=[place.media / "pictures" / "0.png"]))
    with raises_code(UserError, "VT-USE-045"):
        chat.speak("red", place.media / "x.wav")
    with raises_code(UserError, "VT-USE-044"):
        list(chat.ask(""))


@pytest.mark.parametrize(("name", "code"), [("missing", "VT-USE-046"), ("empty", "VT-USE-047")])
def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "empty").mkdir()
    with raises_code(UserError, code, name):
        open_chat(str(tmp_path / name))


def app() -> typer.Typer:
    made = typer.Typer()
    command.register(made)
    return made


def test_one_question_from_the_command_line(place: Place, tmp_path: Path) -> None:
    wav = tmp_path / "reply.wav"
    result = CliRunner().invoke(
        app(),
        [
            "--checkpoint",
            str(place.export),
            "--text",
            "say red",
            "--max-tokens",
            "6",
            "--image",
            str(place.media / "pictures" / "1.png"),
            "--speak",
            str(wav),
        ],
    )
    assert result.exception is None or isinstance(result.exception, UserError)
    assert result.stdout.strip()
    assert wav.exists() or "nothing that can be spoken" in str(result.exception)


def test_a_session_takes_commands_and_survives_mistakes(place: Place, tmp_path: Path) -> None:
    lines = [
        "/image nowhere.png",
        "what is it?",
        f"/audio {place.media / 'sounds' / '1.wav'}",
        "",
        "/nonsense",
        "/image",
        "/reset",
        "/help",
        "/quit",
        "never read",
    ]
    result = CliRunner().invoke(
        app(),
        ["--checkpoint", str(place.export), "--max-tokens", "4"],
        input="\n".join(lines) + "\n",
    )
    assert result.exit_code == 0
    assert result.stderr.count("error: ") == 3
    assert "nowhere.png does not exist" in result.stderr
    assert "/speak FILE" in result.stdout


def test_bad_input_ends_the_command_with_two(place: Place) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vita_train.cli.main",
            "chat",
            "--checkpoint",
            str(place.export),
            "--text",
            "hi",
            "--image",
            "nowhere.png",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == EXIT_REFUSED
    assert done.stderr.startswith("error: ")
    assert "nowhere.png does not exist" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
