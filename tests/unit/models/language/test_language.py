from pathlib import Path

import torch

from tests.helpers.errors import raises_code
from vita_train.errors import CheckpointError
from vita_train.models.attention.packed import packed_name
from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec


def with_source(spec: ModelSpec, source: Path, **changes: object) -> ModelSpec:
    return spec.model_copy(
        update={"llm": spec.llm.model_copy(update={"source": str(source), **changes})}
    )


def test_a_pretrained_directory_is_read_and_checked(small_spec: ModelSpec, tmp_path: Path) -> None:
    pretrained = build_modules(small_spec, ["llm"], seed=9)["llm"]
    pretrained.save_pretrained(tmp_path)
    read = build_modules(with_source(small_spec, tmp_path), ["llm"])["llm"]
    assert torch.equal(read.lm_head.weight, pretrained.lm_head.weight)
    assert read.config._attn_implementation == packed_name("auto")
    build_modules(
        with_source(small_spec, tmp_path / "gone"), ["llm"], empty=True
    )  # does not read it
    facts = ("vocab_size is 97", "98", "num_hidden_layers is 2")
    with raises_code(CheckpointError, "VT-WEIGHTS-001", *facts):
        build_modules(with_source(small_spec, tmp_path, vocab_size=98, num_layers=1), ["llm"])


def test_a_directory_without_a_model_is_refused(small_spec: ModelSpec, tmp_path: Path) -> None:
    with raises_code(CheckpointError, "VT-WEIGHTS-004"):
        build_modules(with_source(small_spec, tmp_path), ["llm"])


def test_nothing_is_read_on_the_meta_device(small_spec: ModelSpec, tmp_path: Path) -> None:
    with torch.device("meta"):
        modules = build_modules(with_source(small_spec, tmp_path / "missing"), ["llm"])
    assert modules["llm"].lm_head.weight.is_meta
