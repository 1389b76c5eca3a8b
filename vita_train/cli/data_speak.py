"""``vita-train data speak``: typed questions as spoken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_train.cli.data_convert import Roots


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command()(speak)


def speak(
    target: Annotated[
        Path, typer.Argument(help="Record file of typed questions.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="New folder for records and recordings.")],
    say: Annotated[
        str,
        typer.Option(
            help="Synthesiser as package.module:function, called as f(text, voice=, speed=); it "
            "returns samples and their rate."
        ),
    ] = "vita_train.data.sources.synth.voices:say",
    voices: Annotated[str, typer.Option(help="Names with commas; each record takes one.")] = "",
    speeds: Annotated[str, typer.Option(help="Factors with commas.")] = "1",
    judge: Annotated[
        str,
        typer.Option(
            help="Run whose recogniser listens to each question; one it does not understand "
            "rejects its record.",
            show_default=False,
        ),
    ] = "",
    max_error: Annotated[
        float, typer.Option(min=0, help="Share of words that it may get wrong.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    root: Roots = None,
    adapter: Annotated[str, typer.Option(help="Layout of the records.")] = "",
) -> None:
    """Turn typed questions into spoken ones, for stage 2.2."""
    from vita_train.data.check.targets import open_target
    from vita_train.data.speak import SpeakSettings, speak_records
    from vita_train.plugins import named

    factors = _factors(speeds)
    settings = SpeakSettings(tuple(voices.split(",")), factors, max_error=max_error, seed=seed)
    listens = None
    if judge:
        from vita_train.evaluation.recogniser import open_recogniser

        listens = open_recogniser(judge)
    (source,) = open_target(target, roots=root or [], adapter=adapter or None)
    found = speak_records(source, out, named(say), settings, listens)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(found.reasons.items()))
    typer.echo(
        f"wrote {out / 'registry.yaml'}: {found.records} records, {found.questions} questions, "
        f"{found.seconds / 3600:.2f} h; rejected: {reasons or 'none'} (rejects.jsonl)"
    )


def _factors(text: str) -> tuple[float, ...]:
    from vita_train.errors import UserError

    try:
        factors = tuple(float(word) for word in text.split(","))
    except ValueError:
        factors = ()
    if not factors or not all(0.25 <= factor <= 4 for factor in factors):
        raise UserError(
            f"{text!r} are no speeds",
            code="VT-USE-229",
            where="--speeds",
            remedy="write them like 0.9,1,1.1",
        )
    return factors
