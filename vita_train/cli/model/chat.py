"""``vita-train chat``: talk to a trained model, once or in a session."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vita_train.printable import printable_lines

if TYPE_CHECKING:
    from vita_train.inference.chat import Chat

HELP = """/image FILE   show an image with the next message (several times for several)
/audio FILE   play a recording with it; alone it is a spoken question
/video FILE   show a video with it
/speak FILE   write the last reply as speech to a WAV file
/reset        begin a new conversation
/quit         leave"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("chat")(chat)


def chat(
    checkpoint: Annotated[
        str, typer.Option(help="An exported model, or a run's directory or URI.")
    ],
    text: Annotated[
        str, typer.Option(help="The question; without it and --audio a session begins.")
    ] = "",
    image: Annotated[list[Path] | None, typer.Option(help="Image, may be repeated.")] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Recording; alone it is a spoken question.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Video.")] = None,
    speak: Annotated[
        Path | None, typer.Option(help="Speak the reply into this WAV file while it is made.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 always takes the most likely token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0.01, max=1, help="Draw from the fewest tokens that reach it.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
) -> None:
    """Talk to a trained model. Text streams out as it is made."""
    from vita_train.inference.chat import Sampling, open_chat

    model = open_chat(checkpoint)
    model.sampling = Sampling(temperature, top_p, seed)
    if text.strip() or audio:
        say(model, text, image or [], [audio] if audio else [], video, max_tokens, speak)
    else:
        Session(model, list(image or []), video, speak, max_tokens).run()


def say(
    model: Chat,
    text: str,
    images: list[Path],
    audios: list[Path],
    video: Path | None,
    max_tokens: int,
    speak: Path | None = None,
) -> str:
    """Print a reply as it is made, with ``speak`` write its sound as it is made too, and return the
    reply.

    Ctrl-C interrupts it: what was said by then stays in the conversation.
    """
    from vita_train.inference.spoken_file import SpokenFile

    asked, heard, written = time.monotonic(), 0.0, 0.0
    ask = model.ask_aloud if speak else model.ask
    said = ask(text, images=images, audios=audios, video=video, max_new_tokens=max_tokens)
    reply = ""
    with SpokenFile(speak, model.sample_rate) if speak else nullcontext() as file:
        try:
            for piece in said:
                if isinstance(piece, str):
                    print(printable_lines(piece), end="", flush=True)
                    reply, written = reply + piece, time.monotonic() - asked
                elif file:
                    heard = heard or time.monotonic() - asked
                    file.write(piece)
        except KeyboardInterrupt:
            said.close()
            print(" [interrupted]", end="")
    print()
    if model.ignored:
        print("(the model took this as not meant for it)", file=sys.stderr)
    if file:
        print(
            f"spoken: {speak}, {file.seconds:.1f} s; it began after {heard:.1f} s, the text was "
            f"complete after "
            f"{written:.1f} s",
            file=sys.stderr,
        )
    return reply


class Session:
    """Lines from the keyboard to turns of a conversation. A mistake costs a line, not the
    session."""

    def __init__(
        self,
        model: Chat,
        images: list[Path],
        video: Path | None,
        speak: Path | None,
        max_tokens: int,
    ) -> None:
        self.model = model
        self.images, self.video, self.speak, self.max_tokens = images, video, speak, max_tokens
        self.audios: list[Path] = []
        self.reply = ""

    def run(self) -> None:
        """Read and answer until the end of input or /quit."""
        from vita_train.errors import VitaError

        if sys.stdin.isatty():
            print("Write a question; /help lists the commands.")
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
                if line == "/quit":
                    return
                self.take(line)
            except VitaError as error:
                self.images, self.audios, self.video = [], [], None
                print(f"error: {error}", file=sys.stderr)
            except EOFError:
                return
            except KeyboardInterrupt:
                print()

    def take(self, line: str) -> None:
        """Do what one line says."""
        from vita_train.errors import UserError

        command, _, rest = line.partition(" ")
        path = Path(rest.strip()).expanduser()
        if command in ("/image", "/audio", "/video", "/speak") and not rest.strip():
            raise UserError(f"{command} needs a file", code="VT-USE-002")
        match command:
            case "/image":
                self.images.append(path)
            case "/audio":
                self.audios.append(path)
            case "/video":
                self.video = path
            case "/speak":
                print(f"spoken: {path}, {self.model.speak(self.reply, path):.1f} s")
            case "/reset":
                self.model.reset()
                self.images, self.audios, self.video = [], [], None
            case "/help":
                print(HELP)
            case _ if command.startswith("/"):
                raise UserError(
                    f"unknown command {command!r}",
                    code="VT-USE-003",
                    remedy="/help lists the commands",
                )
            case _ if line or self.audios:
                self.answer(line)

    def answer(self, text: str) -> None:
        """Put a turn to the model with what was attached to it."""
        self.reply = say(
            self.model, text, self.images, self.audios, self.video, self.max_tokens, self.speak
        )
        self.images, self.audios, self.video = [], [], None
