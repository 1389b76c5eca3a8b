"""Modules built without first weights, and weights that stay in their files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.family_tokenizers import FAMILIES
from tests.helpers.small_towers import PROJECTORS, TOWERS, model_of
from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.modules import MODULES
from vita_train.weights.load import first_names, load_modules
from vita_train.weights.save import save_modules

UNITS = 7
#: Modules that a specification changes the kind of.
VARIED = {"llm", "vision", "projector"}


def specs(small: ModelSpec) -> dict[str, ModelSpec]:
    """Return small models that have every family, tower and projector between them."""
    found = {name: model_of(TOWERS["internvit"], name) for name in PROJECTORS}
    found |= {name: model_of(tower) for name, tower in TOWERS.items()}
    for family in FAMILIES:
        moe = (
            {"moe": {"num_local_experts": 4, "num_experts_per_tok": 2}}
            if family == "mixtral-8x7b"
            else {}
        )
        found[family] = changed(small, "llm", family=family, **moe)
    found["tied"] = changed(small, "llm", tie_embeddings=True)
    found["prompt"] = changed(small, "audio_adapter", prompt_tokens=3)
    return {
        name: changed(spec, "speech_decoder", width=16, num_heads=2) for name, spec in found.items()
    }


def changed(small: ModelSpec, part: str, **fields: Any) -> ModelSpec:
    raw = small.model_dump()
    return ModelSpec.model_validate({**raw, part: {**raw[part], **fields}})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_model_that_was_loaded_is_the_model(
    small_spec: ModelSpec, tmp_path: Path, dtype: torch.dtype
) -> None:
    for label, spec in specs(small_spec).items():
        names = VARIED | (set(MODULES) - {"state_head"} if label == "prompt" else set())
        drawn = build_modules(spec, names, ctc_vocab_size=UNITS, seed=5, dtype=dtype)
        files = save_modules(drawn, tmp_path / label)
        for mapped in (False, True):
            empty = build_modules(spec, names, ctc_vocab_size=UNITS, dtype=dtype, empty=True)
            load_modules(empty, files, mapped=mapped)
            for kind in ("named_parameters", "named_buffers"):
                want, have = (
                    dict(getattr(modules, kind)(remove_duplicate=False))
                    for modules in (drawn, empty)
                )
                assert list(want) == list(have)
                assert [
                    name
                    for name in want
                    if want[name].dtype != have[name].dtype
                    or not torch.equal(want[name], have[name])
                ] == [], (label, mapped)
            assert first_names(empty) == first_names(drawn)


def test_mapped_weights_take_no_memory_and_their_files_are_safe(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    spec = changed(small_spec, "llm", vocab_size=400_000)
    drawn = build_modules(spec, ["llm"])
    files = save_modules(drawn, tmp_path)
    content, size = files["llm"][0].read_bytes(), sum(p.nbytes for p in drawn.parameters())
    before = own_memory()
    mapped = build_modules(spec, ["llm"], empty=True)
    load_modules(mapped, files, mapped=True)
    assert own_memory() - before < size / 5
    assert size > 100e6
    with torch.no_grad():
        for parameter in mapped.parameters():
            parameter.zero_()
    assert files["llm"][0].read_bytes() == content


@pytest.mark.parametrize("shift", [0, 8])
def test_mapped_weights_lie_as_torch_lays_its_own(
    small_spec: ModelSpec, tmp_path: Path, shift: int
) -> None:
    """Or else sums are rounded in another order, and the same weights score differently in the last
    digits."""
    files = save_modules(build_modules(small_spec, ["llm", "vision"]), tmp_path)
    for (path,) in files.values():
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        path.write_bytes(
            (length + shift).to_bytes(8, "little")
            + data[8 : 8 + length]
            + b" " * shift
            + data[8 + length :]
        )
    modules = build_modules(small_spec, files, empty=True)
    load_modules(modules, files, mapped=True)
    assert {
        name for name, parameter in modules.named_parameters() if parameter.data_ptr() % 64
    } == set()


def own_memory() -> int:
    """Return bytes of this process that are no pages of a file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        pytest.skip("this kernel does not tell memory of files from other memory")
    return int(found[1]) * 1024
