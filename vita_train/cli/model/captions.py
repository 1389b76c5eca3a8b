"""``vita-train model caption`` and ``vita-train model judge``: detailed captions and their
scores."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vita_train.storage.whole_file import whole_file

#: Environment variable: the key of the judge's server, sent as a bearer token.
JUDGE_KEY = "VITA_TRAIN_JUDGE_KEY"
#: What each file is asked.
PROMPT = "Describe this in detail."


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("caption")(caption)
    app.command("judge")(judge)


def caption(
    media: Annotated[Path, typer.Argument(help="An image, a video, or a folder of them.")],
    checkpoint: Annotated[
        str, typer.Option(help="An exported model, or a run's directory or URI.")
    ],
    out: Annotated[Path, typer.Option(help="File of JSON Lines to write.")],
    prompt: Annotated[str, typer.Option(help="What is asked of each.")] = PROMPT,
    frames: Annotated[int, typer.Option(min=0, help="Frames of a video; 0: as trained.")] = 0,
    keep: Annotated[
        float, typer.Option(min=0, max=1, help="Share of visual tokens to keep; 0: as trained.")
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest caption.")] = 2048,
) -> None:
    """Describe images and videos, each by itself: a line with id and caption, or with the reason
    why there is none."""
    from vita_train.inference.captions import (
        caption_files,
        keep_tokens,
        media_files,
        with_frames,
    )
    from vita_train.inference.chat import open_chat

    files = media_files(media)
    chat = open_chat(checkpoint)
    if keep:
        chat.recipe = keep_tokens(chat.recipe, chat.modules, keep)
    if frames:
        chat.recipe = with_frames(chat.recipe, frames)
    failed = tokens = 0
    with whole_file(out) as stream:
        made = caption_files(chat, files, media, prompt, max_new_tokens=max_tokens)
        for number, found in enumerate(made, 1):
            failed, tokens = failed + bool(found.error), tokens + found.visual_tokens
            row = {key: value for key, value in asdict(found).items() if value or key == "caption"}
            if found.error:
                del row["caption"]
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            if number % 20 == 0 or number == len(files):
                typer.echo(f"{number} of {len(files)}, {failed} without a caption")
    seen = len(files) - failed
    typer.echo(f"{out}: {seen} captions, {tokens / max(1, seen):.0f} visual tokens each")
    if failed:
        raise typer.Exit(1)


def judge(
    captions: Annotated[Path, typer.Argument(help="What `vita-train model caption` wrote.")],
    questions: Annotated[
        Path, typer.Option(help="JSON Lines with id, question and answer.", show_default=False)
    ],
    endpoint: Annotated[
        str,
        typer.Option(
            help="Server of chat completions, such as http://localhost:30000/v1.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="Name of the judge there.", show_default=False)],
    out: Annotated[Path, typer.Option(help="JSON to write.", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.")] = 8,
) -> None:
    """Score detailed captions: a language model answers questions from each caption alone and
    compares its answers with the right ones. A key is taken from VITA_TRAIN_JUDGE_KEY."""
    from vita_train.evaluation.judge import (
        ChatEndpoint,
        judge_captions,
        read_captions,
        read_questions,
    )

    ask = ChatEndpoint(endpoint, model, os.environ.get(JUDGE_KEY, ""))
    report = judge_captions(
        read_captions(captions),
        read_questions(questions),
        ask,
        workers=workers,
        kept=out.with_suffix(".judged.jsonl"),
    )
    with whole_file(out) as stream:
        stream.write(json.dumps(report.as_json(), ensure_ascii=False, indent=1) + "\n")
    typer.echo(
        f"accuracy {report.accuracy:.2f} %, score {report.score:.2f} over {report.items} items and "
        f"{report.questions} questions"
    )
    for what, found in (
        ("without a caption", report.without_caption),
        ("verdicts that cannot be read", report.unread),
    ):
        if found:
            typer.echo(f"{len(found)} {what}; they count as wrong and are listed in {out}")
