"""What the recipe of real media reaches on images and recordings that it was not trained on.

    python benchmarks/stamps_quality.py runs/stamps

Beside each figure stands what the same model reaches without the image (captions read under another
one), or what guessing reaches. Every number is read from the run's own final evaluation. Writes
``benchmarks/results/stamps_quality.md``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tiny_quality import RESULTS, Run, read_run

from vita_train.errors import UserError
from vita_train.evaluation.retrieval import CANDIDATES


def table(run: Run) -> str:
    """Return the figures as a markdown table."""
    rows = [
        (
            "loss of captions, nats per token",
            f"{run['caption.test.loss']:.3f}",
            f"{run['caption.test.loss_blind']:.3f} under other images",
        ),
        (
            f"image finds its caption among {CANDIDATES}",
            f"{100 * run['caption.test.retrieval']:.1f} %",
            f"{100 / CANDIDATES:.1f} % by guessing",
        ),
        ("captions written word for word", f"{100 * run['caption.test.accuracy']:.1f} %", ""),
        ("words of captions named", f"{100 * run['caption.test.attributes']:.1f} %", ""),
        (
            "recogniser's word error",
            f"{100 * run['asr.test.wer']:.1f} %",
            "100 % by saying nothing",
        ),
        (
            "word error of the language model's transcripts",
            f"{100 * run['asr.test.llm_wer']:.1f} %",
            "100 % by saying nothing",
        ),
        ("loss of text tasks, nats per token", f"{run['instruct.test.loss']:.3f}", ""),
    ]
    lines = [("held out", "reached", "baseline"), ("---", "---", "---"), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    """Collect the run and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="finished run directory")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of the results")
    arguments = parser.parse_args()
    try:
        run = read_run(arguments.run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    text = (
        f"# Real media, held out\n\n`python benchmarks/stamps_quality.py "
        f"runs/{run.name}`\n\n{table(run)}\n"
    )
    text += f"Training, all stages: {run.seconds / 60:.1f} min on two cores.\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "stamps_quality.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
