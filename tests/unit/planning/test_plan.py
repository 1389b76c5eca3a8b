import re
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from vita_train.cli.run import plan as command
from vita_train.errors import RecipeError, UserError
from vita_train.models.audio.adapter import adapter_length
from vita_train.planning.devices import load_devices
from vita_train.planning.here import this_machine
from vita_train.planning.parameters import count_parameters
from vita_train.planning.plan import Plan, audio_positions, gpu_bytes, media_positions, plan_recipe
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
    result = _run("tiny", "--ranks", "2")
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


def _run(*words: str) -> Result:
    app = typer.Typer()
    command.register(app)
    return CliRunner().invoke(app, [*words])


def test_memory_time_and_cost_are_shown_for_a_gpu_that_is_known() -> None:
    result = _run("tiny", "--gpu", "h100-80", "--price", "2.5", "--stage", "0.vision")
    assert result.exit_code == 0, result.output
    assert "2 x h100-80" in result.output
    for word in ("activations", "fragmentation", "the store", "cost", "assuming 70%"):
        assert word in result.output
    assert "is not known" in _run("tiny", "--gpu", "80", "--stage", "0.vision").output


def test_a_stage_that_does_not_fit_ends_the_command(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    toy = "{memory: 0.035, bandwidth: 10, float32: 1, caches: false}"
    path.write_text(f"devices: {{toy-1: {toy}}}\n", "utf-8")
    words = ("tiny", "--gpu", "toy-1", "--stage", "0.vision", "--devices", str(path))
    result = _run(*words)
    assert isinstance(result.exception, UserError)
    assert result.exception.exit_code == 2
    assert "stage 0.vision needs 0.0" in result.exception.what
    settings = re.findall(r"--set '([^']+)'", result.exception.remedy)
    assert settings
    assert _run(*words, *(word for one in settings for word in ("--set", one))).exit_code == 0


def test_a_device_of_which_too_little_is_said_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text("devices: {toy-1: {memory: 1}}\n", "utf-8")
    with raises_code(RecipeError, "VT-RECIPE-043", str(path)):
        load_devices(path)


def test_this_machine_is_measured() -> None:
    here = this_machine(Path("runs/not/there"))
    assert here.node_memory > 0
    assert here.device.float32 > 0
    assert here.device.bandwidth > 0
    assert here.device.measured


@pytest.mark.parametrize(
    ("nodes", "ranks", "launch"), [(4, 0, (4, 8)), (0, 32, (4, 8)), (0, 4, (1, 4)), (2, 6, (2, 3))]
)
def test_nodes_and_ranks_are_those_of_the_command(
    nodes: int, ranks: int, launch: tuple[int, int]
) -> None:
    recipe = command.on_ranks("vita-1.5-7b", [], nodes, ranks)
    assert (recipe.launch.nodes, recipe.launch.nproc) == launch
    batch = recipe.stages["1.2"].batch
    assert batch.global_batch_size == 128
    assert batch.grad_accum == min(16, 128 // recipe.launch.ranks), "rows enough for each of them"
