"""The command line is read as the library's own parser reads it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.helpers.errors import raises_code
from vita_train.compat.vita.flags import FLAGS, RENAMED
from vita_train.compat.vita.parse import parse_arguments
from vita_train.errors import UserError


def library_values(words: list[str]) -> dict[str, Any]:
    """What HfArgumentParser makes of a command line, given a dataclass of the same fields."""
    from transformers import HfArgumentParser

    fields = [
        (
            flag.name,
            flag.kind if flag.default is not None else flag.kind | None,
            dataclasses.field(default=flag.default),
        )
        for flag in FLAGS.values()
    ]
    kind = dataclasses.make_dataclass("Fields", fields)
    return dataclasses.asdict(
        HfArgumentParser(kind).parse_args_into_dataclasses(words, look_for_args_file=False)[0]
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--tune_mm_mlp_adapter",
        "--tune_mm_mlp_adapter True --use_thumbnail False --is_multimodal 0 --freeze_audio_encoder "
        "no",
        "--no_use_thumbnail --no-is-multimodal --freeze-audio-encoder F",
        "--bf16 --learning_rate 2e-5 --max_steps -1 --output_dir=out/x --save_steps 500 "
        "--weight_decay 0.",
        "--learning_rate 1 --learning_rate 3e-4 --seed 7 --tf32 True",
        "--vision_tower a --lora_bias all --bits 4 --use_s2",
        "--per-device-train-batch-size 2 --report_to none --model-max-length 6200",
    ],
)
def test_values_are_the_library_s(line: str) -> None:
    ours = parse_arguments(line.split())
    assert {name: ours[name] for name in FLAGS} == library_values(line.split())


@pytest.mark.parametrize(
    "line", ["--tf32", "--bits four", "--learning_rate", "--bf16 maybe", "stray"]
)
def test_what_the_library_refuses_is_refused(line: str) -> None:
    with pytest.raises(UserError):
        parse_arguments(line.split())
    with pytest.raises((SystemExit, ValueError)):
        library_values(line.split())


@pytest.mark.parametrize(
    ("line", "code", "facts"),
    [
        ("--learnin_rate 1", "VT-USE-015", ["--learnin_rate", "--learning_rate?", "train --flags"]),
        ("--tune-mm-mlp-adaptor True", "VT-USE-015", ["--tune_mm_mlp_adapter?"]),
        ("--learning 1", "VT-USE-015", ["--learning_rate?"]),
        ("--qqqqqq 1", "VT-USE-015", ["--qqqqqq", "train --flags"]),
        ("stray", "VT-USE-015", ["'stray'", "train --flags"]),
        ("--bits 5", "VT-USE-017", ["--bits 5", "4, 8, 16"]),
        ("--version qwen2p5_instuct", "VT-USE-017", ["qwen2p5_instruct?"]),
        ("--bits x", "VT-USE-016", ["--bits", "'x'"]),
        ("--learning_rate fast", "VT-USE-016", ["--learning_rate/--learning-rate", "'fast'"]),
        ("--bf16 maybe", "VT-USE-016", ["--bf16", "'maybe'", "True", "False"]),
        (
            "--evaluation_strategy no --eval_strategy steps",
            "VT-USE-018",
            ["--evaluation_strategy no", "--eval_strategy steps"],
        ),
    ],
)
def test_mistakes_are_one_line(line: str, code: str, facts: list[str]) -> None:
    with raises_code(UserError, code, *facts) as caught:
        parse_arguments(line.split())
    assert caught.value.where == "train"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_old_names_are_read_and_told_once(old: str, new: str) -> None:
    value = {"eval_strategy": "steps"}.get(new, "4" if FLAGS[new].kind is int else "True")
    arguments = parse_arguments([f"--{old}", value, f"--{old}", value])
    assert arguments[new] == parse_arguments([f"--{new}", value])[new]
    assert arguments.notes.count(f"--{old} is read as --{new}") == 1


@pytest.mark.parametrize("kind", ["mlp2x_gelu", "mlp3x_gelu", "spp_16_v1", "linear", "identity"])
def test_projectors_are_known_by_pattern(kind: str) -> None:
    assert parse_arguments(["--mm_projector_type", kind])["mm_projector_type"] == kind
    with raises_code(UserError, "VT-USE-017"):
        parse_arguments(["--mm_projector_type", "vlpatch"])
