"""What preflight finds before anything is trained: refusals with code and remedy, and warnings."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.helpers.data_world import recipe, small_world
from tests.helpers.errors import raises_code
from tests.helpers.fake_hub import FakeHub
from tests.helpers.hostile_http import HostileServer, hostile_http
from vita_train.console import Found, check, show_checks
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.run import prepare
from vita_train.errors import DataError, RecipeError, UserError
from vita_train.planning import memory
from vita_train.planning.estimate import estimate_stage
from vita_train.planning.memory import named_device
from vita_train.preflight.coverage import corpus_coverage, modality_shares
from vita_train.preflight.media import check_roots
from vita_train.preflight.memory import check_memory
from vita_train.preflight.packages import check_packages
from vita_train.preflight.rates import rate_warnings
from vita_train.preflight.sources import check_sources
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.runs.run import Run

LLM = {"vocab_size": 512, "hidden_size": 64, "num_heads": 4, "max_positions": 512}
CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 28,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
}


def with_model(**llm: Any) -> Recipe:
    model = {
        "dtype": "float32",
        "llm": {**LLM, **llm},
        "vision": {"image_size": 32, "patch_size": 8},
        "speech_decoder": {"width": 64},
    }
    return recipe(model=model)


@pytest.mark.parametrize("weight", ["-1", "0"])
def test_weights_of_a_mixture_are_positive(weight: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("smoke", [f"stages.1.1.data.caption={weight}"])
    assert "stages.1.1.data.caption" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_package_that_the_recipe_needs_is_missing() -> None:
    made = load_recipe("smoke", ["tracking.wandb_project=mine", "launch.backend=local"])
    with raises_code(UserError, "VT-USE-077", "wandb", "tracking.wandb_project", "[tracking]"):
        check_packages(made)
    flash = load_recipe("smoke", ["model.llm.attention=flash"])
    with raises_code(UserError, "VT-USE-077", "flash_attn", "model.llm.attention"):
        check_packages(flash, here=True)
    assert "none" in check_packages(load_recipe("smoke", ["launch.backend=local"]))


def test_on_a_cluster_the_image_must_have_the_packages() -> None:
    made = load_recipe("smoke", ["tracking.wandb_project=mine", "launch.backend=kubernetes"])
    assert "image" in check_packages(made)
    assert "wandb" in check_packages(made)


def model_folder(at: Path, **changes: Any) -> Path:
    at.mkdir()
    (at / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (at / "model.safetensors").write_bytes(b"")
    return at


def test_a_folder_of_the_right_shape_is_taken(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "llm")
    found = check_sources(with_model(source=str(folder)), ask_hub=False)
    assert str(folder) in found.detail
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("spoil", "code", "fact"),
    [
        (shutil.rmtree, "VT-USE-214", "model.llm.source"),
        (lambda at: (at / "config.json").unlink(), "VT-USE-216", "config.json"),
        (lambda at: (at / "model.safetensors").unlink(), "VT-USE-216", "weights"),
        (lambda at: (at / "config.json").write_text("{"), "VT-USE-217", "config.json"),
        (
            lambda at: (at / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 65})),
            "VT-USE-218",
            "hidden_size is 65 there and 64",
        ),
        (
            lambda at: (at / "config.json").write_text('{"model_type": "llama"}'),
            "VT-USE-218",
            "model_type is llama",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    tmp_path: Path, spoil: Any, code: str, fact: str
) -> None:
    folder = model_folder(tmp_path / "llm")
    spoil(folder)
    with raises_code(UserError, code, fact, str(folder)):
        check_sources(with_model(source=str(folder)), ask_hub=False)


def test_what_is_no_name_of_a_repository_is_refused() -> None:
    with raises_code(UserError, "VT-USE-215", "--x/y"):
        check_sources(with_model(source="--x/y"), ask_hub=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with hostile_http() as server:
        yield at_hub(server, monkeypatch, tmp_path)


def at_hub(server: HostileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    world = FakeHub(server)
    world.add("models/me/llm", {"model.safetensors": b"x"})
    return world


def test_a_repository_that_the_hub_does_not_have_is_refused(hub: FakeHub) -> None:
    with raises_code(UserError, "VT-USE-195", "model.llm.source: nobody/nothing"):
        check_sources(with_model(source="nobody/nothing"), ask_hub=True)
    with raises_code(UserError, "VT-USE-216", "config.json"):
        check_sources(with_model(source="me/llm"), ask_hub=True)
    assert check_sources(with_model(source="nobody/nothing"), ask_hub=False).warnings == ()


def test_without_a_network_nothing_is_refused(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = check_sources(with_model(source="nobody/nothing"), ask_hub=True)
    assert len(found.warnings) == 1
    assert "nobody/nothing could not be checked" in found.warnings[0]


def records_run(tmp_path: Path) -> Run:
    registry = small_world(tmp_path / "world", 2)
    source = {"kind": "records", "registry": str(registry)}
    made = recipe(data={"source": {"mine": source}}, storage={"root": str(tmp_path / "runs")})
    return Run(made, "r")


def test_media_folders_that_are_missing_or_empty_are_refused(tmp_path: Path) -> None:
    run = records_run(tmp_path)
    assert "none is empty" in check_roots(run)
    shutil.rmtree(tmp_path / "world" / "sounds")
    (tmp_path / "world" / "sounds").mkdir()
    shutil.rmtree(tmp_path / "world" / "pics")
    with raises_code(
        DataError, "VT-DATA-075", "pics (root pics", "does not exist", "sounds (root", "is empty"
    ):
        check_roots(run)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    at = tmp_path_factory.mktemp("world")
    prepare(recipe(), small_world(at), at / "corpus", progress=[].append)
    return Corpus.open(at / "corpus")


def test_supervision_of_each_dataset_is_told(corpus: Corpus) -> None:
    found = corpus_coverage(recipe(), corpus)
    index = corpus.index("talk", "train")
    share = sum(index.column("supervised")) / index.tokens.sum()
    assert f"{share:.0%} of talk" in found.detail
    assert found.warnings == ()


def test_a_dataset_without_supervision_is_refused(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vita_train.data.index.corpus.Index.total", lambda index, name: 0)
    with raises_code(DataError, "VT-DATA-073", "hear/train"):
        corpus_coverage(recipe(), corpus)


def test_little_supervision_is_a_warning(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vita_train.data.index.corpus.Index.total", lambda index, name: 1)
    assert len(corpus_coverage(recipe(), corpus).warnings) == 3


def test_media_that_are_gone_are_found(tmp_path: Path) -> None:
    prepare(recipe(), small_world(tmp_path, 3), tmp_path / "corpus", progress=[].append)
    (tmp_path / "sounds" / "s2.wav").unlink()
    with raises_code(DataError, "VT-DATA-074", "s2.wav", "hear/train"):
        corpus_coverage(recipe(), Corpus.open(tmp_path / "corpus"))


def test_a_modality_that_is_hardly_drawn_is_a_warning(corpus: Corpus) -> None:
    shares = modality_shares(corpus, {"look": 1.0, "talk": 1.0})
    look, talk = len(corpus.index("look", "train")), len(corpus.index("talk", "train"))
    seen = int((corpus.index("look", "train").tiles > 0).sum())
    seen += int((corpus.index("talk", "train").tiles > 0).sum())
    assert shares["image or video"] == pytest.approx(seen / (look + talk))
    stages = recipe().model_dump(mode="json")["stages"]
    stages["1.3"]["data"] = {"look": 0.001, "talk": 100.0}
    warnings = corpus_coverage(recipe(stages=stages), corpus).warnings
    assert any("1.3" in line and "image or video" in line for line in warnings)


def all_at_once(rate: float, source: str | None) -> Recipe:
    made = with_model(source=source).model_dump(mode="json")
    made["stages"]["1.3"]["trainable"] = {"vision": rate, "projector": rate, "llm": rate}
    return Recipe.model_validate(made)


def test_everything_at_once_at_a_high_rate_is_a_warning() -> None:
    (line,) = rate_warnings(all_at_once(2e-4, "some/llm"))
    assert "1.3" in line
    assert "llm 0.0002" in line
    assert rate_warnings(all_at_once(2e-5, "some/llm")) == ()
    assert rate_warnings(all_at_once(2e-4, None)) == (), "there is nothing to forget"


def test_a_warm_up_that_outlasts_its_stage_is_a_warning() -> None:
    (line,) = rate_warnings(load_recipe("smoke", ["stages.0.llm.optim.warmup=4"]))
    assert "0.llm" in line
    assert rate_warnings(load_recipe("smoke", ["stages.0.llm.optim.warmup=3"])) == ()


def test_memory_is_that_of_the_recipes_gpus() -> None:
    found = check_memory(recipe(), "a100-80")
    assert "of 76.0 GB" in found.detail
    with raises_code(UserError, "VT-USE-212", "--gpu"):
        check_memory(recipe(), "t4")


def test_weights_that_do_not_fit_are_told_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_recipe("vita-1.5-7b", ["launch.nodes=1", "launch.nproc=1"])
    with raises_code(UserError, "VT-USE-213", "1 x 1 l4-24", "vita-train plan") as caught:
        check_memory(made, "l4-24")
    assert "before activations" in str(caught.value)
    monkeypatch.setattr("vita_train.planning.estimate.estimate_stage", None)
    assert memory._answer(made, "l4-24")["stages"] == {}


def test_a_stage_that_does_not_fit_the_gpus_is_refused_with_what_makes_it_fit() -> None:
    """Activations count: the weights of this stage alone would fit."""
    sizes = {"hidden_size": 512, "num_layers": 4, "num_heads": 8, "intermediate_size": 1024}
    made = with_model(**sizes).model_dump(mode="json")
    made["model"]["vision"]["hidden_size"] = 64
    made["stages"] = {"1.3": made["stages"]["1.3"]}
    made["stages"]["1.3"]["batch"] |= {"global_batch_size": 12, "seq_len": 512}
    large = Recipe.model_validate(made)
    device = named_device("small-1")
    estimate = estimate_stage(large, "1.3", device)
    assert estimate is not None
    assert estimate.memory.total > device.usable
    with raises_code(UserError, "VT-USE-213", "stages.1.3", "activations") as caught:
        check_memory(large, "small-1")
    setting = re.search(r"--set '(.*?)'", caught.value.remedy)
    assert setting is not None
    assert setting[1].startswith("stages.1.3.")
    key, _, value = setting[1].removeprefix("stages.1.3.").rpartition("=")
    section, name = key.split(".")
    made["stages"]["1.3"].setdefault(section, {})[name] = value
    assert check_memory(Recipe.model_validate(made), "small-1").detail


def engine(kind: str, zero: int, offload: str) -> int:
    made = recipe().model_dump(mode="json")
    made["stages"]["1.3"]["engine"] = {"kind": kind, "zero": zero, "offload": offload}
    estimate = estimate_stage(Recipe.model_validate(made), "1.3", named_device("t4-16"))
    assert estimate is not None
    return estimate.memory.total


def test_what_is_offloaded_takes_no_memory_of_the_gpu() -> None:
    whole = engine("deepspeed", 3, "none")
    optimizer, everything = engine("deepspeed", 3, "optimizer"), engine("deepspeed", 3, "all")
    assert whole > optimizer > everything > 0
    assert engine("torch", 3, "all") == engine("torch", 3, "none")


def test_warnings_are_shown_and_refuse_nothing() -> None:
    text = io.StringIO()
    checks = [check("a", lambda: Found("fine", ("but [red]look",))), check("b", lambda: "good")]
    show_checks(checks, Console(file=text, width=200))
    assert "but [red]look" in text.getvalue()
    assert "2 checks passed, 1 warning\n" in text.getvalue()
