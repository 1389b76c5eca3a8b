import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from vita_train.cli.run import plan as command
from vita_train.errors import RecipeError
from vita_train.models.audio.adapter import adapter_length
from vita_train.planning.parameters import count_parameters
from vita_train.planning.plan import Plan, audio_positions, gpu_bytes, media_positions, plan_recipe
from vita_train.planning.throughput import flops_per_token, hours_per_billion
from vita_train.recipe.load import load_recipe
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.stage import StageSpec


@pytest.fixture(scope="module")
def real() -> Plan:
    return plan_recipe(load_recipe("vita-1.5-7b"), ranks=8)


def test_the_real_recipe_is_planned_without_weights(real: Plan) -> None:
    stages = {stage.stage: stage for stage in real.stages}
    assert list(stages) == ["1.1", "1.2", "1.3", "2.1a", "2.1b", "2.2", "3.1", "3.2"]
    assert stages["1.1"].trained == {"projector": 27_532_288}
    # The recogniser's head is there to measure with: the encoder trains once more.
    omni = sum(
        real.modules[name]
        for name in ("llm", "vision", "projector", "audio_encoder", "ctc_head", "audio_adapter")
    )
    assert sum(stages["2.2"].modules.values()) == omni == pytest.approx(8.324e9, rel=1e-4)


def test_the_readme_shows_what_the_plan_says(real: Plan) -> None:
    text = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w., ]+) \|[^|]*\| ([\d.]+) \(([^)]+)\) \|", text, re.MULTILINE)
    stages = {stage.stage: stage for stage in real.stages}
    shown = [(name, size, how) for names, size, how in rows for name in names.split(", ")]
    assert len(shown) == 5
    for name, size, how in shown:
        stage = stages[name]
        assert f"{stage.state_bytes(stage.zero, 8) / 1e9:.1f}" == size, name
        assert how == ("whole" if stage.zero == 0 else f"ZeRO {stage.zero}"), name


def test_training_everything_takes_sixteen_bytes_a_weight_shared_by_sharding(real: Plan) -> None:
    (stage,) = (stage for stage in real.stages if stage.stage == "1.3")
    assert stage.trained == stage.modules
    count = sum(stage.trained.values())
    assert stage.state_bytes(0, 8) == 16 * count
    assert stage.state_bytes(1, 8) == 4 * count + 12 * count // 8
    assert stage.state_bytes(2, 8) == 2 * count + 2 * count // 8 + 12 * count // 8
    assert stage.state_bytes(3, 8) == pytest.approx(2 * count, abs=8)
    assert stage.state_bytes(3, 1) == stage.state_bytes(0, 8)


def test_media_take_the_published_positions() -> None:
    recipe = load_recipe("vita-1.5-7b")
    positions = media_positions(recipe)
    assert positions["image, one tile"] == 256
    assert positions["image, at most (13 tiles)"] == 3328
    assert positions["video, 16 frames"] == 4096
    assert [audio_positions(recipe.model, s) for s in (1, 2, 5, 10, 30, 60)] == [
        12,
        24,
        62,
        124,
        374,
        749,
    ]


def test_tiled_and_pooled_videos_are_planned_with_the_most_they_take() -> None:
    tiled = media_positions(load_recipe("vita-1.5-7b", ["data.video.tile_frames=true"]))
    assert tiled["video, 4 frames (at most 16 tiles)"] == tiled["video, 16 frames"] == 4096
    pooled = media_positions(load_recipe("vita-1.5-7b", ["data.video.slowfast=true"]))
    assert (pooled["video, 4 frames"], pooled["video, 16 frames"]) == (
        144 + 3 * 49,
        4 * 144 + 12 * 49,
    )


def test_audio_positions_agree_with_the_modules() -> None:
    import torch

    from vita_train.models.audio.encoder import encoder_length

    for seconds in (0.09, 0.5, 1.37, 3.54, 12.0):
        frames = torch.tensor(int(seconds * 100) - 2)
        assert audio_positions(ModelSpec(), seconds) == int(
            adapter_length(encoder_length(frames), 2)
        )


def test_tied_embeddings_count_once(small_spec: ModelSpec) -> None:
    tied = small_spec.model_copy(
        update={"llm": small_spec.llm.model_copy(update={"tie_embeddings": True})}
    )
    assert (
        count_parameters(small_spec, ["llm"])["llm"] - count_parameters(tied, ["llm"])["llm"]
        == 97 * 32
    )


@pytest.mark.parametrize("name", ["h100", "h100-", "h100-0", ""])
def test_a_gpu_without_a_size_is_refused(name: str) -> None:
    with raises_code(RecipeError, "VT-RECIPE-025", "--gpu"):
        gpu_bytes(name)


def test_the_command_prints_every_stage() -> None:
    app = typer.Typer()
    command.register(app)
    result = CliRunner().invoke(app, ["tiny", "--gpu", "l4-24", "--ranks", "2"])
    assert result.exit_code == 0, result.output
    for stage in load_recipe("tiny").stages:
        assert f"\n{stage} " in result.output
    assert "stages on 2 processes" in result.output


def _adapted(**stage: object) -> Plan:
    recipe = load_recipe("vita-1.5-7b")
    spec = (
        recipe.stages["1.2"].model_dump()
        | {
            "trainable": {"llm": 1e-4},
            "lora": {"rank": 64},
            "engine": {"kind": "torch"},
            "after": [],
        }
        | stage
    )
    return plan_recipe(
        recipe.model_copy(update={"stages": {"1.2": StageSpec.model_validate(spec)}})
    )


def test_adapters_of_the_published_model_have_the_published_size() -> None:
    (stage,) = _adapted().stages
    assert stage.trained == {"llm": 161_480_704}
    assert stage.modules["llm"] == 7_615_616_512 + 161_480_704
    assert stage.state_bytes(0, 1) == 2 * sum(stage.modules.values()) + 14 * 161_480_704


def test_biases_that_train_are_counted() -> None:
    (stage,) = _adapted(lora={"rank": 64, "bias": "all"}).stages
    assert stage.trained["llm"] == 161_480_704 + 28 * (3584 + 2 * 512)


@pytest.mark.parametrize(("kind", "gigabytes"), [("nf4", 3.4), ("int8", 6.5)])
def test_quantised_matrices_take_their_bits(kind: str, gigabytes: float) -> None:
    (full,), (stage,) = _adapted().stages, _adapted(quantize={"kind": kind}).stages
    assert stage.quantized == 28 * 233_046_016  # matrices of a block
    assert stage.quantized_bytes / 1e9 == pytest.approx(gigabytes, rel=0.02)
    assert (
        full.state_bytes(0, 1) - stage.state_bytes(0, 1)
        == 2 * stage.quantized - stage.quantized_bytes
    )


def test_a_billion_tokens_take_what_their_flops_take(real: Plan) -> None:
    stages = {stage.stage: stage for stage in real.stages}
    everything, aligned = stages["1.3"], stages["1.1"]
    assert flops_per_token(everything) == 6 * sum(everything.modules.values())
    # The projector trains before a frozen language model that its gradient passes through; the
    # tower only looks.
    assert flops_per_token(aligned) == (
        6 * aligned.modules["projector"]
        + 4 * aligned.modules["llm"]
        + 2 * aligned.modules["vision"]
    )
    # 47.7 GFLOP a token on 8 H100 at 40 %: 3.16 PFLOP/s.
    assert hours_per_billion(everything, 989e12, 8, 0.4) == pytest.approx(4.19, abs=0.01)


def test_the_language_model_of_adapters_passes_gradients_on() -> None:
    plan = plan_recipe(
        load_recipe("vita-1.5-7b", ["stages.1.3.lora={rank: 8, modules: [llm]}"]), ranks=8
    )
    (stage,) = (stage for stage in plan.stages if stage.stage == "1.3")
    adapters = stage.trained["llm"]
    assert flops_per_token(stage) == (
        6 * (adapters + stage.modules["vision"] + stage.modules["projector"])
        + 4 * (stage.modules["llm"] - adapters)
    )


def test_hours_and_cost_are_shown_for_a_gpu_that_is_known() -> None:
    app = typer.Typer()
    command.register(app)
    shown = (
        CliRunner()
        .invoke(app, ["vita-1.5-7b", "--gpu", "h100-80", "--ranks", "8", "--price", "2.5"])
        .output
    )
    assert "8 x h100-80" in shown
    assert "4.2" in shown
    assert "84" in shown, "4.19 h x 8 x 2.5"
    assert "a billion tokens" not in CliRunner().invoke(app, ["vita-1.5-7b", "--gpu", "80"]).output
