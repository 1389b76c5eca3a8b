import subprocess
import sys

import pytest
import torch

from vita_train.errors import RecipeError
from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec

PUBLISHED = {
    "llm": 7_615_616_512,
    "vision": 304_012_288,
    "projector": 27_532_288,
    "audio_encoder": 357_950_464,
    "audio_adapter": 17_835_520,
}


def test_the_real_model_has_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        modules = build_modules(ModelSpec(), PUBLISHED)
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    assert counts == PUBLISHED
    assert sum(counts.values()) == pytest.approx(8.323e9, rel=1e-4)
    assert modules["llm"].lm_head.weight.numel() == 544_997_376


def test_building_another_module_changes_no_weights(small_spec: ModelSpec) -> None:
    alone = build_modules(small_spec, ["audio_adapter"], seed=5)
    together = build_modules(small_spec, ["vision", "audio_adapter", "projector"], seed=5)
    other_seed = build_modules(small_spec, ["audio_adapter"], seed=6)
    for name, weight in alone["audio_adapter"].state_dict().items():
        assert torch.equal(weight, together["audio_adapter"].state_dict()[name])
    assert not torch.equal(
        alone["audio_adapter"].conv.weight, other_seed["audio_adapter"].conv.weight
    )


def test_building_leaves_the_callers_random_state_alone(small_spec: ModelSpec) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_modules(small_spec, ["llm"])
    assert torch.equal(torch.rand(3), expected)


def test_parameters_take_the_type_and_buffers_keep_theirs(small_spec: ModelSpec) -> None:
    modules = build_modules(small_spec, ["llm", "audio_encoder"], dtype=torch.bfloat16)
    assert {p.dtype for p in modules.parameters()} == {torch.bfloat16}
    assert modules["audio_encoder"].global_cmvn.istd.dtype == torch.float32
    assert modules["llm"].model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize(("names", "ctc_vocab_size"), [(["llm", "tower"], 0), (["ctc_head"], 0)])
def test_what_cannot_be_built_is_refused(
    small_spec: ModelSpec, names: list[str], ctc_vocab_size: int
) -> None:
    with pytest.raises(RecipeError):
        build_modules(small_spec, names, ctc_vocab_size=ctc_vocab_size)


def test_modules_of_sound_are_built_without_transformers() -> None:
    """Its import costs every rank more time than torch's."""
    code = (
        "import sys\n"
        "import vita_train.training.stage\n"
        "from vita_train.models.build import build_modules\n"
        "from vita_train.recipe.load import load_recipe\n"
        "spec = load_recipe('smoke').model\n"
        "for empty in (False, True):\n"
        "    build_modules(spec, ['audio_encoder', 'ctc_head', 'codec', 'discriminators'], "
        "ctc_vocab_size=4, empty=empty)\n"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
