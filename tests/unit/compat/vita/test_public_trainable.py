"""Which modules train: the public code's rules, checked against gradients switched on and off in
its order."""

from __future__ import annotations

from itertools import product

import pytest
from torch import nn

from tests.helpers.errors import raises_code
from vita_train.compat.vita.parse import Arguments, parse_arguments
from vita_train.compat.vita.scripts import SCRIPTS, script_words
from vita_train.compat.vita.trainable import PARTS, rates, resolve, trainable_parts
from vita_train.errors import UserError

SWITCHES = (
    "freeze_backbone",
    "tune_mm_mlp_adapter",
    "tune_audio_mlp_adapter",
    "audio_prompt_finetune",
    "audio_state_predictor_tuning",
    "freeze_mm_mlp_adapter",
    "unfreeze_vision_tower",
    "freeze_audio_encoder",
    "freeze_audio_encoder_adapter",
)

#: Trainable in fact under each public script's flags.
TRAINED = {
    "pretrain_mlp": {"projector"},
    "pretrain_mlp_nodes": {"projector"},
    "pretrain_mlp_qwen": {"projector"},
    "pretrain_mlp_qwen_nodes": {"projector"},
    "finetune": {"llm", "lm_head", "projector"},
    "finetune_nodes": {"llm", "lm_head", "projector"},
    "finetune_qwen": {"llm", "lm_head", "projector", "vision"},
    "finetune_qwen_nodes": {"llm", "lm_head", "projector", "vision"},
    "finetuneTask_nodes": {"llm", "lm_head", "projector"},
    "finetuneTask_qwen": {"llm", "lm_head", "projector"},
    "finetuneTask_qwen_nodes": {"llm", "lm_head", "projector"},
    "pretrain_audio_mlp_qwen": {"audio_adapter"},
    "pretrain_audio_mlp_qwen_nodes": {"audio_adapter"},
    "finetuneTaskNeg_qwen": {"llm", "lm_head", "projector", "audio_adapter"},
    "finetuneTaskNeg_qwen_nodes": {"llm", "lm_head", "projector", "audio_adapter"},
    "finetuneTaskNeg_qwen_fo": {"audio_prompt"},
    "finetuneTaskNeg_qwen_fo_nodes": {"audio_prompt"},
}


def by_gradients(values: dict[str, bool]) -> set[str]:
    """Build a model of one weight a part and switch gradients in the order of the public
    trainer."""
    inner = nn.ModuleDict({"llm": nn.Linear(1, 1)})
    model = nn.ModuleDict(
        {"inner": inner, "lm_head": nn.Linear(1, 1), "state_head": nn.Linear(1, 1)}
    )
    model["state_head"].requires_grad_(False)  # made when it is asked for
    if values["freeze_backbone"]:
        inner.requires_grad_(False)
    inner["vision"] = nn.Linear(1, 1).requires_grad_(False)
    inner["projector"] = nn.Linear(1, 1)
    inner["audio_encoder"] = nn.Linear(1, 1).requires_grad_(not values["freeze_audio_encoder"])
    inner["audio_adapter"] = nn.Linear(1, 1).requires_grad_(
        not values["freeze_audio_encoder_adapter"]
    )
    inner["audio_prompt"] = nn.Linear(1, 1).requires_grad_(False)  # made when it is asked for
    if values["tune_mm_mlp_adapter"]:
        model.requires_grad_(False)
        inner["projector"].requires_grad_(True)
    if values["tune_audio_mlp_adapter"]:
        model.requires_grad_(False)
        inner["audio_adapter"].requires_grad_(True)
    if values["audio_prompt_finetune"] or values["audio_state_predictor_tuning"]:
        model.requires_grad_(False)
        inner["audio_prompt"].requires_grad_(values["audio_prompt_finetune"])
        model["state_head"].requires_grad_(values["audio_state_predictor_tuning"])
    if values["freeze_mm_mlp_adapter"]:
        inner["projector"].requires_grad_(False)
    if values["unfreeze_vision_tower"]:
        inner["vision"].requires_grad_(True)
    return {
        name.split(".")[-2] for name, weight in model.named_parameters() if weight.requires_grad
    }


def test_every_combination_resolves_as_the_public_code_does() -> None:
    for choice in product((False, True), repeat=len(SWITCHES)):
        values = dict(zip(SWITCHES, choice, strict=True))
        wanted = by_gradients(values)
        assert set(resolve(Arguments(dict(values))).parts) == wanted, values
        if wanted:
            assert set(trainable_parts(Arguments(dict(values)), like_public=True)) == wanted, values
        else:
            with raises_code(UserError, "VT-USE-021"):
                trainable_parts(Arguments(dict(values)), like_public=True)


def test_the_table_holds_every_script() -> None:
    assert set(TRAINED) == set(SCRIPTS)
    assert len(SCRIPTS) == 17


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("like_public", [True, False])
def test_scripts_train_what_they_train_in_public(name: str, like_public: bool) -> None:
    arguments = parse_arguments(script_words(name))
    assert set(trainable_parts(arguments, like_public=like_public)) == TRAINED[name]


@pytest.mark.parametrize(
    ("line", "first", "second"),
    [
        (
            "--tune_audio_mlp_adapter --audio_prompt_finetune",
            "--tune_audio_mlp_adapter True",
            "--audio_prompt_finetune True",
        ),
        (
            "--tune_mm_mlp_adapter --freeze_mm_mlp_adapter --unfreeze_vision_tower",
            "--tune_mm_mlp_adapter True",
            "--freeze_mm_mlp_adapter True",
        ),
        (
            "--freeze_audio_encoder False --tune_mm_mlp_adapter",
            "--freeze_audio_encoder False",
            "--tune_mm_mlp_adapter True",
        ),
        (
            "--freeze_audio_encoder_adapter True --tune_audio_mlp_adapter",
            "--freeze_audio_encoder_adapter True",
            "--tune_audio_mlp_adapter True",
        ),
        (
            "--freeze_audio_encoder_adapter False --audio_state_predictor_tuning",
            "--freeze_audio_encoder_adapter False",
            "--audio_state_predictor_tuning True",
        ),
    ],
)
def test_flags_that_undo_each_other_are_refused_or_followed(
    line: str, first: str, second: str
) -> None:
    with raises_code(UserError, "VT-USE-020", first, second, "--like-public"):
        trainable_parts(parse_arguments(line.split()))
    arguments = parse_arguments(line.split())
    assert trainable_parts(arguments, like_public=True) == resolve(arguments).parts
    assert any(note.startswith(f"{first} contradicts {second}") for note in arguments.notes)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--tune_mm_mlp_adapter",
        "--unfreeze_vision_tower --tune_audio_mlp_adapter",
        "--freeze_audio_encoder_adapter True --tune_mm_mlp_adapter",
        "--freeze_backbone --tune_mm_mlp_adapter",
    ],
)
def test_flags_that_agree_are_not(line: str) -> None:
    arguments = parse_arguments(line.split())
    assert trainable_parts(arguments) == resolve(arguments).parts
    assert arguments.notes == []


def test_a_frozen_backbone_is_frozen_with_its_head() -> None:
    arguments = parse_arguments(["--freeze_backbone"])
    assert trainable_parts(arguments) == ("projector",)
    assert "lm_head" in arguments.notes[0]
    assert trainable_parts(arguments, like_public=True) == ("lm_head", "projector")


def test_false_freezes_nothing_and_that_is_told() -> None:
    arguments = parse_arguments(["--tune_mm_mlp_adapter", "False"])
    assert "projector" in trainable_parts(arguments)
    assert arguments.notes == [
        "--tune_mm_mlp_adapter False freezes nothing, in the public code as well: the "
        "projector trains"
    ]


def test_the_projector_s_rate_is_the_tower_s() -> None:
    arguments = parse_arguments(["--learning_rate", "2e-5", "--mm_projector_lr", "2e-6"])
    assert rates(PARTS, arguments) == {
        "llm": 2e-5,
        "vision": 2e-6,
        "projector": 2e-5,
        "audio_encoder": 2e-5,
        "audio_adapter": 2e-5,
        "audio_prompt": 2e-5,
        "state_head": 2e-5,
    }
    assert rates(("projector",), arguments) == {"projector": 2e-5}
