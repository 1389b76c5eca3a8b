"""A conversation with a trained model: text, images, audio and video in, text out as it is made,
and speech.

Media and prompts go through the same code as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vita_train.data.constants import PLACEHOLDERS
from vita_train.data.media import MediaError
from vita_train.data.media.audio import check_length, fbank, load_wave
from vita_train.data.media.image import cut_tiles, normalise, open_image
from vita_train.data.media.video import load_frames, probe_video, video_frame_indices
from vita_train.data.prepare.positions import positions_of
from vita_train.data.prepare.prompt import MediaCounts, encode_prompt, expand
from vita_train.data.prepare.states import State, mark_ids, take_mark
from vita_train.data.prepare.tokenizer import Tokenizer, control_id, load_tokenizer, plain_ids
from vita_train.data.templates import load_template
from vita_train.errors import UserError
from vita_train.inference.generate import generate_ids, stream_text
from vita_train.inference.spoken_file import SpokenFile
from vita_train.models.inputs import Prompt
from vita_train.models.omni import Omni
from vita_train.models.state_head import meant_for_assistant
from vita_train.recipe.schema import Recipe
from vita_train.recipe.visual import image_tokens, video_tokens

if TYPE_CHECKING:
    from vita_train.inference.speech import Speaker

#: Modules that each kind of input or output needs.
_NEEDS: dict[str, tuple[str, ...]] = {
    "text": ("llm",),
    "images": ("vision", "projector"),
    "video": ("vision", "projector"),
    "speech": ("codec", "speech_decoder"),
}


@dataclass
class Conversation:
    """What was said so far, and the media that were shown with it, in order."""

    turns: list[str] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    """Tiles (N, 3, S, S) of each image."""
    videos: list[Tensor] = field(default_factory=list)
    """Tiles (N, 3, S, S) of each video."""
    clips: list[Tensor] = field(default_factory=list)
    """Filterbank features (T, bins) of each clip."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the most likely one at temperature 0, else drawn."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Chat:
    """A model in conversation.

    Attributes:
        sampling: how replies are drawn.
        ignored: the last turn was audio not meant for the model, as the mark its reply opened with
            or the state head tells.
    """

    def __init__(self, recipe: Recipe, modules: nn.ModuleDict, tokenizer: Tokenizer) -> None:
        self.recipe, self.modules, self.tokenizer = recipe, modules, tokenizer
        self.template = load_template(recipe.data.template)
        self.conversation = Conversation()
        self.ignored = False
        self.sampling = Sampling()
        self._require("text")
        self.omni = Omni(modules)
        self.device = self.omni.head_weight.device

    def reset(self) -> None:
        """Begin a new conversation."""
        self.conversation = Conversation()

    def ask(
        self,
        text: str = "",
        *,
        images: Sequence[Path] = (),
        audios: Sequence[Path] = (),
        video: Path | None = None,
        max_new_tokens: int = 512,
    ) -> Generator[str]:
        """Yield the reply to a turn as it is made. The turn joins the conversation when its reply
        is complete.

        Whoever closes the generator interrupts the reply: what was said by then is the turn.

        Raises:
            UserError: a file cannot be used, or the model lacks what the turn needs.
        """
        asked = self.with_turn(text, images, audios, video)
        prompt = self.prompt(asked)
        marks = {
            ids: state
            for state, ids in mark_ids(self.tokenizer, self.recipe.data.state_mode).items()
        }
        opened: list[State] = []
        made = generate_ids(
            self.omni,
            [prompt],
            max_new_tokens=max_new_tokens,
            stop_ids={control_id(self.tokenizer, token) for token in self.template.stop_tokens},
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            # Anew for each turn: the same question to the same conversation gets the same reply
            generator=torch.Generator(self.device).manual_seed(self.sampling.seed),
        )
        reply = ""
        for piece in stream_text(
            self.tokenizer, take_mark((ids[0] for ids in made), marks, opened.append)
        ):
            reply += piece
            try:
                yield piece
            # Raised here by close(): the one way in which whoever listens tells that it has heard
            # enough
            except GeneratorExit:
                self._remember(asked, reply, opened)
                raise
        self._remember(asked, reply, opened)
        if audios and self.recipe.data.state_mode == "head" and "state_head" in self.modules:
            # After _remember, which goes by the mark that this mode does not write
            self.ignored = not meant_for_assistant(self.omni, prompt)

    def _remember(self, asked: Conversation, reply: str, opened: list[State]) -> None:
        self.ignored = opened == [State.NEGATIVE]
        # Not empty: a conversation alternates, and the template writes nothing for an empty text
        asked.turns.append(reply or " ")
        self.conversation = asked

    def ask_aloud(
        self,
        text: str = "",
        *,
        images: Sequence[Path] = (),
        audios: Sequence[Path] = (),
        video: Path | None = None,
        max_new_tokens: int = 512,
    ) -> Generator[str | NDArray[np.float32]]:
        """Yield a reply as `ask` does, and between its pieces its audio, clause by clause, while it
        is being written.

        Raises:
            UserError: as `ask`; or the model cannot speak.
        """
        speaker = self._speaker()
        said = self.ask(
            text, images=images, audios=audios, video=video, max_new_tokens=max_new_tokens
        )
        try:
            yield from speaker.speak_along(said)
        finally:
            # Whoever stops listening to the speech interrupts the reply too
            said.close()

    def speak(self, text: str, path: Path) -> float:
        """Write a text as speech to a WAV file and return its seconds.

        Raises:
            UserError: the model cannot speak, the text holds nothing to say, or the file cannot be
                written.
        """
        speaker = self._speaker()
        with SpokenFile(path, self.sample_rate) as file:
            for piece in speaker.speak(text):
                file.write(piece)
        return file.seconds

    @property
    def sample_rate(self) -> int:
        """Samples a second of the model's speech."""
        return self.recipe.model.codec.sample_rate

    def _speaker(self) -> Speaker:
        from vita_train.inference.speech import Speaker

        self._require("speech")
        modules: Any = self.modules
        return Speaker(
            encode=lambda words: plain_ids(self.tokenizer, words),
            llm=modules["llm"],
            decoder=modules["speech_decoder"],
            codec=modules["codec"],
            generator=torch.Generator(self.device).manual_seed(0),
        )

    def with_turn(
        self,
        text: str,
        images: Sequence[Path],
        audios: Sequence[Path],
        video: Path | None,
    ) -> Conversation:
        """Return the conversation with a turn added: images or video first, audio last, as in
        training.

        Raises:
            UserError: a file cannot be used, or the model lacks what the turn needs.
        """
        now = self.conversation
        if (images and (video or now.videos)) or (video and now.images):
            raise UserError(
                "images and video cannot be in one conversation",
                code="VT-USE-042",
                remedy="begin a new one, with /reset or another command",
            )
        if video and now.videos:
            raise UserError(
                "a conversation holds one video",
                code="VT-USE-043",
                remedy="begin a new one, with /reset or another command",
            )
        if not (text.strip() or audios):
            raise UserError(
                "there is no question",
                code="VT-USE-044",
                remedy="write one, or give a recording of one",
            )
        parts = ["<image>"] * len(images) + ["<video>"] * bool(video)
        parts += [escaped(text.strip())] * bool(text.strip()) + ["<audio>"] * len(audios)
        return Conversation(
            [*now.turns, "\n".join(parts)],
            # New lists: a turn that is interrupted before its reply leaves the conversation as it
            # was
            now.images + [self._image(path) for path in images],
            now.videos + ([self._video(video)] if video else []),
            now.clips + [self._clip(path) for path in audios],
        )

    def prompt(self, asked: Conversation) -> Prompt:
        """Return a conversation as the model reads it, up to where its reply begins."""
        model, data = self.recipe.model, self.recipe.data
        tile = model.tile_tokens
        images = [image_tokens(len(tiles), tile) for tiles in asked.images]
        videos = [video_tokens(len(tiles), tile, data.video) for tiles in asked.videos]
        counts = MediaCounts(
            images=tuple(map(sum, images)),
            videos=tuple(map(sum, videos)),
            audios=tuple(model.audio_adapter.tokens_of(len(clip)) for clip in asked.clips),
        )
        encoded = encode_prompt(
            asked.turns, self.template, self.tokenizer, counts, state_mode=data.state_mode
        )
        ids = expand(
            np.asarray(encoded.ids, dtype=np.int64), np.asarray(encoded.runs, dtype=np.int64)
        )
        tiles = [*asked.images, *asked.videos]
        pooled = data.video.slowfast or tile.are_merged
        # Only where tiles differ: None lets the tower give all that it has
        tokens = [count for of in (*images, *videos) for count in of] if pooled else []
        return Prompt(
            torch.from_numpy(ids),
            torch.cat(tiles) if tiles else None,
            tuple(asked.clips),
            "the conversation",
            torch.from_numpy(positions_of(ids, data.shared_position_stride)),
            torch.tensor(tokens) if tokens else None,
        )

    def _image(self, path: Path) -> Tensor:
        self._require("images")
        spec = self.recipe.model.vision
        pixels = _usable(
            lambda: cut_tiles(open_image(path), self.recipe.data.image, spec.tile_size)
        )
        return normalise(pixels, spec)

    def _video(self, path: Path) -> Tensor:
        self._require("video")
        data, spec = self.recipe.data, self.recipe.model.vision

        def frames() -> np.ndarray:
            return load_frames(
                path, video_frame_indices(probe_video(path), data.video), data, spec.tile_size
            )

        return normalise(_usable(frames), spec)

    def _clip(self, path: Path) -> Tensor:
        self._require("audio")
        spec, model = self.recipe.data.audio, self.recipe.model
        wave = _usable(
            lambda: load_wave(
                path,
                spec.sample_rate,
                max_seconds=spec.max_seconds,
                channel=spec.channel,
                resampling=spec.resampling,
            )
        )
        _usable(lambda: check_length(path, len(wave), spec, model.audio_adapter))
        return fbank(wave, spec.sample_rate, model.audio_encoder.num_mel_bins)

    def _require(self, kind: str) -> None:
        needed = self.recipe.model.audio_adapter.modules if kind == "audio" else _NEEDS[kind]
        missing = [name for name in needed if name not in self.modules]
        if missing:
            raise UserError(
                f"this model has no {kind}: {', '.join(missing)} was never trained",
                code="VT-USE-045",
                remedy="train the stages that add it",
            )


def open_chat(checkpoint: str) -> Chat:
    """Load an exported model, or the newest weights of a run.

    Args:
        checkpoint: an export's directory, or the directory or s3:// URI of a run.

    Raises:
        UserError: it is neither, or holds no finished stage.
        CheckpointError: files are missing or damaged.
    """
    from vita_train.storage.base import is_local, local_path
    from vita_train.storage.factory import open_store

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if is_local(checkpoint):
        path = local_path(checkpoint)
        if not path.is_dir():
            raise UserError(
                "there is no such directory",
                code="VT-USE-046",
                where=str(path),
                remedy="give an export, <run>/export/model, or a run's directory",
            )
        if (path / "export.json").is_file():
            from vita_train.weights.export import load_exported

            exported = load_exported(path)
            return Chat(exported.recipe, exported.modules.to(device), exported.tokenizer)
    store = open_store(checkpoint)
    if not store.exists("recipe.yaml"):
        raise UserError(
            "this is neither an export nor a run",
            code="VT-USE-047",
            where=store.uri,
            remedy="give an export, <run>/export/model, or a run's directory",
        )
    from vita_train.runs.run import Run
    from vita_train.weights.newest import load_newest

    run = Run.open(checkpoint)
    recipe = run.recipe
    # Neither takes part in a conversation
    modules = load_newest(run, without=("discriminators", "ctc_head"))
    tokenizer = load_tokenizer(
        recipe.tokenizer.source or run.present_corpus(media=False) / "tokenizer"
    )
    return Chat(recipe, modules.to(device), tokenizer)


def escaped(text: str) -> str:
    """Return a text whose placeholder names stay text: nobody can type an image."""
    for kind in PLACEHOLDERS:
        text = text.replace(f"<{kind}>", f"\\<{kind}>")
    return text


def _usable(load: Callable[[], Any]) -> Any:
    """Turn a file that cannot be used into one clear line."""
    try:
        return load()
    except MediaError as error:
        raise UserError(error.detail, code="VT-USE-048") from error
