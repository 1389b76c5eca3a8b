"""Other people's layouts: names and shapes of the release, bit-exact round trips, every tensor explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from foreign import EXPECTED_COUNTS, released_shapes
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from vita_train.cli.main import build_app
from vita_train.errors import CheckpointError, UserError
from vita_train.models.build import build_modules
from vita_train.models.checkpoint import load_modules, save_modules
from vita_train.models.checkpoint.probe import difference
from vita_train.models.layouts.exporting import export_hf, export_internvl, export_vita, internvl_logits, read_back
from vita_train.models.layouts.importing import ImportPlan, plan_import, write_import
from vita_train.models.layouts.places import VITA_MODULES, vita_place
from vita_train.models.layouts.source import open_source
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe

NAMES = ("llm", "vision", "projector", "audio_encoder", "audio_adapter")


def build(spec: ModelSpec, seed: int = 1, names: tuple[str, ...] = NAMES) -> nn.ModuleDict:
    """Modules whose every tensor is random, so that none can be taken for another."""
    modules = build_modules(spec, names, units=7, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in modules.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    return modules


@pytest.fixture(scope="module")
def ours(small_spec: ModelSpec) -> nn.ModuleDict:
    return build(small_spec)


@pytest.fixture
def recipe(small_spec: ModelSpec) -> Recipe:
    stage = {"objective": "next_token", "data": {"caption": 1.0}, "trainable": {"projector": 1e-3}, "steps": 1}
    return Recipe.model_validate({"name": "small", "model": small_spec.model_dump(), "stages": {"1.1": stage}})


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:97]
    backend = Tokenizer(models.BPE(vocab={letter: k for k, letter in enumerate(alphabet)}, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(str(tmp_path / "corpus" / "tokenizer"))
    return tmp_path / "corpus"


def released(modules: nn.ModuleDict) -> dict[str, Tensor]:
    """The tensors of modules as the released checkpoint holds them, joined by hand."""
    found: dict[str, dict[int, Tensor]] = {}
    for module in modules:
        for name, tensor in modules[module].state_dict().items():
            place = vita_place(module, name)
            assert place is not None
            found.setdefault(place.name, {})[place.part] = tensor
    return {name: torch.cat([parts[k] for k in sorted(parts)]) if len(parts) > 1 else parts[0]
            for name, parts in found.items()}


def plan(path: Path, spec: ModelSpec, names: tuple[str, ...] = (), layout: str = "") -> ImportPlan:
    return plan_import(open_source(path, layout), spec, names)


def imported(path: Path, spec: ModelSpec, out: Path, names: tuple[str, ...] = ()) -> nn.ModuleDict:
    """Modules of the specification that started from an import of ``path``."""
    summary = write_import(plan(path, spec, names), out)
    modules = build_modules(spec, summary["modules"], units=7, seed=9).eval()
    load_modules(modules, {name: tuple(out / file for file in entry["files"])
                           for name, entry in summary["modules"].items()})
    return modules


def test_every_tensor_of_the_release_is_one_of_ours_and_none_is_left() -> None:
    spec = ModelSpec()
    with torch.device("meta"):
        modules = build_modules(spec, VITA_MODULES)
    shapes: dict[str, dict[int, tuple[int, ...]]] = {}
    for module in NAMES:
        for name, tensor in modules[module].state_dict().items():
            place = vita_place(module, name)
            assert place is not None, name
            assert place.part not in shapes.get(place.name, {}), f"{place.name} is two of ours"
            shapes.setdefault(place.name, {})[place.part] = tuple(tensor.shape)
    joined = {name: (parts[0][0] * len(parts), *parts[0][1:]) for name, parts in shapes.items()}
    assert joined == released_shapes()
    counts = {name: sum(parameter.numel() for parameter in modules[name].parameters()) for name in NAMES}
    assert counts == EXPECTED_COUNTS
    assert round(sum(counts.values()) / 1e9, 2) == 8.32


def test_the_released_layout_comes_back_bit_for_bit(ours: nn.ModuleDict, small_spec: ModelSpec, recipe: Recipe,
                                                    corpus: Path, tmp_path: Path) -> None:
    export_vita(ours, recipe, corpus, tmp_path / "vita")
    written = load_file(tmp_path / "vita" / "model.safetensors")
    expected = released(ours)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert "model.audio_encoder.adpter.conv1d2.weight" in written
    back = imported(tmp_path / "vita", small_spec, tmp_path / "imported")
    assert list(back) == list(NAMES)
    assert difference(ours, back) == ""
    ledger = json.loads((tmp_path / "imported" / "ledger.json").read_text())
    assert {row["status"] for row in ledger["rows"]} == {"used", "renamed"}
    assert len(ledger["rows"]) == len(expected)


def test_half_precision_passes_unchanged(small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    half = recipe.model_copy(update={"model": small_spec.model_copy(update={"dtype": "bfloat16"})})
    modules = build(small_spec)
    export_vita(modules, half, corpus, tmp_path / "vita")
    summary = write_import(plan(tmp_path / "vita", small_spec), tmp_path / "imported")
    stored = load_file(tmp_path / "imported" / "llm.safetensors")
    assert torch.equal(stored["lm_head.weight"], modules["llm"].lm_head.weight)
    assert stored["lm_head.weight"].dtype == torch.bfloat16
    assert summary["modules"]["projector"]["parameters"] == 64 * 32 + 32 + 32 * 32 + 32


def test_shards_and_both_spellings_are_read(ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path) -> None:
    tensors = {name.replace("adpter", "audio_adapter"): tensor.clone() for name, tensor in released(ours).items()}
    write_shards(tensors, tmp_path)
    assert difference(ours, imported(tmp_path, small_spec, tmp_path / "out")) == ""
    source = open_source(tmp_path)
    assert source.layout.name == "vita"
    assert "VITA" in source.terms


def test_small_output_shards_load_to_the_same(ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in released(ours).items()}, tmp_path / "model.safetensors")
    summary = write_import(plan(tmp_path, small_spec), tmp_path / "out", shard_bytes=20_000)
    files = {name: tuple(tmp_path / "out" / file for file in entry["files"])
             for name, entry in summary["modules"].items()}
    assert len(files["llm"]) > 2
    back = build_modules(small_spec, NAMES, seed=5).eval()
    load_modules(back, files)
    assert difference(ours, back) == ""


def test_transformers_loads_our_directory_without_remote_code(small_spec: ModelSpec, recipe: Recipe, corpus: Path,
                                                              tmp_path: Path) -> None:
    modules = build(small_spec, names=(*NAMES[:4], "ctc_head", "audio_adapter"))
    export_hf(modules, recipe, corpus, tmp_path / "hf")  # AutoModel loads it there, tensors and logits are compared
    assert "auto_map" not in json.loads((tmp_path / "hf" / "config.json").read_text())
    assert difference(modules, imported(tmp_path / "hf", small_spec, tmp_path / "imported")) == ""
    assert not open_source(tmp_path / "hf").terms


def test_tied_embeddings_are_stored_once_in_every_layout(small_spec: ModelSpec, recipe: Recipe, corpus: Path,
                                                         tmp_path: Path) -> None:
    spec = small_spec.model_copy(update={"llm": small_spec.llm.model_copy(update={"tie_embeddings": True})})
    tied = recipe.model_copy(update={"model": spec})
    modules = build(spec)
    export_vita(modules, tied, corpus, tmp_path / "vita")
    assert "lm_head.weight" not in load_file(tmp_path / "vita" / "model.safetensors")
    assert difference(modules, read_back(tied, tmp_path / "vita", NAMES)) == ""
    export_hf(modules, tied, corpus, tmp_path / "hf")
    export_internvl(modules, tied, corpus, tmp_path / "internvl")


def test_transformers_own_internvl_classes_say_the_same(ours: nn.ModuleDict, recipe: Recipe, corpus: Path,
                                                        tmp_path: Path) -> None:
    export_internvl(ours, recipe, corpus, tmp_path / "internvl")
    half = nn.ModuleDict({name: ours[name] for name in ("llm", "vision", "projector")})
    expected, found = internvl_logits(half, tmp_path / "internvl")
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    summary = json.loads((tmp_path / "internvl" / "export.json").read_text())
    assert summary["left_out"] == ["audio_encoder", "audio_adapter"]


def test_the_picture_reaches_the_internvl_logits(ours: nn.ModuleDict, recipe: Recipe, corpus: Path,
                                                 tmp_path: Path) -> None:
    export_internvl(ours, recipe, corpus, tmp_path / "internvl")
    half = nn.ModuleDict({name: ours[name] for name in ("llm", "vision", "projector")})
    with torch.no_grad():
        half["projector"][2].bias.add_(1.0)
        ahead, behind = internvl_logits(half, tmp_path / "internvl")
        half["projector"][2].bias.sub_(1.0)
    assert (ahead - behind).abs().max() > 1e-3


def test_an_export_that_its_layout_cannot_say_is_refused(ours: nn.ModuleDict, small_spec: ModelSpec, recipe: Recipe,
                                                         corpus: Path, tmp_path: Path) -> None:
    spec = small_spec.model_copy(update={
        "audio_encoder": small_spec.audio_encoder.model_copy(update={"relative_shift": True})})
    with pytest.raises(CheckpointError, match="relative_shift is True, not False"):
        export_vita(ours, recipe.model_copy(update={"model": spec}), corpus, tmp_path / "vita")
    convolved = spec.model_copy(update={"audio_encoder": small_spec.audio_encoder.model_copy(
        update={"conv_kernel": 3})})
    with pytest.raises(CheckpointError, match=r"audio_encoder\.encoders\.0\.norm_conv.* has no place"):
        export_vita(build(convolved), recipe.model_copy(update={"model": convolved}), corpus, tmp_path / "vita")
    assert not (tmp_path / "vita").exists()


def test_every_fault_is_told_by_name_and_nothing_is_written(ours: nn.ModuleDict, small_spec: ModelSpec,
                                                            tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in released(ours).items()}
    del tensors["model.norm.weight"]
    tensors["model.audio_encoder.adpter.bn2.running_mean"] = torch.zeros(24)
    tensors["model.mm_projector.0.weight"] = tensors["model.mm_projector.0.weight"].T.contiguous()
    tensors["model.mm_projector.2.bias"] = tensors["model.mm_projector.2.bias"].long()
    tensors["model.vision_tower.vision_tower.encoder.layers.0.attn.qkv.weight"] = torch.zeros(48, 15)
    tensors["model.audio_encoder.prompt_embeddings.weight"] = torch.zeros(25, 32)
    save_file(tensors, tmp_path / "model.safetensors")
    made = plan(tmp_path, small_spec)
    with pytest.raises(CheckpointError) as caught:
        write_import(made, tmp_path / "out")
    for line in ("model.norm.weight is missing: 32",
                 "model.audio_encoder.adpter.bn2.running_mean is unexpected: 24, and no module has a tensor for it",
                 "model.mm_projector.0.weight has another shape: 64x32 there, 32x64 in the recipe",
                 "model.mm_projector.2.bias is of another kind: I64 there, real numbers here",
                 "attn.qkv.weight has another shape: 48x15 there, 48x16 in the recipe"):
        assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert [row.theirs for row in made.ledger.rows if row.status == "left out"] == [
        "model.audio_encoder.prompt_embeddings.weight"]
    others = plan(tmp_path, small_spec, ("audio_encoder",))
    assert others.ledger.faults == [row for row in made.ledger.faults if "running_mean" in row.theirs]


def test_settings_that_no_shape_tells_are_compared(ours: nn.ModuleDict, small_spec: ModelSpec, recipe: Recipe,
                                                   corpus: Path, tmp_path: Path) -> None:
    export_vita(ours, recipe, corpus, tmp_path / "vita")
    config = json.loads((tmp_path / "vita" / "config.json").read_text())
    (tmp_path / "vita" / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0, "num_attention_heads": 8}))
    with pytest.raises(CheckpointError, match=r"num_attention_heads is 8 in config.json and 4 in the recipe; "
                                              r"rope_theta is 5.0 in config.json"):
        write_import(plan(tmp_path / "vita", small_spec), tmp_path / "out")
    wrong = small_spec.model_copy(update={"vision": small_spec.vision.model_copy(update={"feature_scale": 1.0})})
    with pytest.raises(CheckpointError, match=r"model.vision.feature_scale is 1.0, not 0.5"):
        write_import(plan(tmp_path / "vita", wrong, ("projector",)), tmp_path / "out")


@pytest.mark.parametrize("name", ["mm_projector.bin", "mm_projector/checkpoint-8.bin"])
def test_projector_files_of_a_stage_are_read(ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path,
                                             name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    torch.save({f"base.model.mm_projector.{key}": tensor for key, tensor in ours["projector"].state_dict().items()},
               path)
    back = imported(path, small_spec, tmp_path / "out")
    assert list(back) == ["projector"]
    assert difference(ours, back) == ""


def test_adapter_files_tell_that_they_never_hold_buffers(ours: nn.ModuleDict, small_spec: ModelSpec,
                                                         tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in released(ours).items() if "adpter" in name}
    torch.save(state, tmp_path / "audio_adpter.bin")
    back = imported(tmp_path, small_spec, tmp_path / "out")  # the directory of a periodic save
    assert list(back) == ["audio_adapter"]
    assert difference(ours, back) == ""
    (note,) = json.loads((tmp_path / "out" / "ledger.json").read_text())["notes"]
    assert "buffers of the adapter" in note


@pytest.mark.parametrize("form", ["json", "kaldi"])
def test_the_speech_encoder_directory(ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path, form: str) -> None:
    bins, count = small_spec.audio_encoder.num_mel_bins, 50.0
    frames = torch.randn(int(count), bins, dtype=torch.float64) * 3 + 2
    sums, squares = frames.sum(0).tolist(), (frames**2).sum(0).tolist()
    text = json.dumps({"mean_stat": sums, "var_stat": squares, "frame_num": count})
    if form == "kaldi":
        text = f" [\n  {' '.join(map(str, sums))} {count}\n  {' '.join(map(str, squares))} 0 ]"
    write_speech_directory(ours, tmp_path, text, statistics=False)
    back = imported(tmp_path, small_spec, tmp_path / "out")
    assert list(back) == ["audio_encoder", "audio_adapter"]
    cmvn = back["audio_encoder"].global_cmvn
    torch.testing.assert_close(cmvn.mean, frames.mean(0).float())
    torch.testing.assert_close(cmvn.istd, 1 / frames.std(0, correction=0).float())
    changed = dict(back["audio_encoder"].state_dict())
    original = ours["audio_encoder"].state_dict()
    assert {name for name in changed if not torch.equal(changed[name], original[name])} == {
        "global_cmvn.mean", "global_cmvn.istd"}


def test_a_speech_encoder_with_another_adapter_is_refused(ours: nn.ModuleDict, small_spec: ModelSpec,
                                                          tmp_path: Path) -> None:
    write_speech_directory(ours, tmp_path, '{"mean_stat": [0], "var_stat": [1], "frame_num": 1}',
                           settings="model_conf: {norm: batch, adpter_type: subsampling}")
    with pytest.raises(CheckpointError, match="model_conf.norm is 'batch' in train.yaml"):
        write_import(plan(tmp_path, small_spec), tmp_path / "out")
    (tmp_path / "global_cmvn").write_text("[ 1 2 nan 0 ]")
    with pytest.raises(CheckpointError, match="no feature statistics"):
        plan(tmp_path, small_spec)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_a_tower_in_its_original_names(ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path,
                                       prefix: str) -> None:
    start = "model.vision_tower.vision_tower."
    tensors = {prefix + name.removeprefix(start): tensor.clone() for name, tensor in released(ours).items()
               if name.startswith(start)}
    save_file(tensors | ({"mlp1.0.bias": torch.zeros(3)} if prefix else {}), tmp_path / "model.safetensors")
    source = open_source(tmp_path)
    assert (source.layout.name, source.terms) == ("internvit", "")
    assert difference(ours, imported(tmp_path, small_spec, tmp_path / "out")) == ""


def test_parts_in_the_names_of_transformers(ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path) -> None:
    ours["vision"].model.save_pretrained(str(tmp_path / "tower"))
    ours["llm"].save_pretrained(str(tmp_path / "llm"), max_shard_size="20KB")
    assert (tmp_path / "llm" / "model.safetensors.index.json").is_file()
    for name, module in (("tower", "vision"), ("llm", "llm")):
        back = imported(tmp_path / name, small_spec, tmp_path / "out" / name)
        assert list(back) == [module]
        assert difference(ours, back) == ""
    config = json.loads((tmp_path / "llm" / "config.json").read_text())
    (tmp_path / "llm" / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="model_type is llama in config.json and qwen2 in the recipe"):
        write_import(plan(tmp_path / "llm", small_spec), tmp_path / "again")


def test_the_command_asks_for_terms_once_and_prints_the_ledger(ours: nn.ModuleDict, recipe: Recipe, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    from vita_train.recipe.load import dump_recipe

    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(dump_recipe(recipe))
    torch.save({f"model.mm_projector.{key}": tensor for key, tensor in ours["projector"].state_dict().items()},
               tmp_path / "mm_projector.bin")

    def run(out: str, *more: str) -> tuple[str, BaseException | None]:
        done = CliRunner().invoke(build_app(), ["import", str(tmp_path / "mm_projector.bin"), "--out",
                                                str(tmp_path / out), "--recipe", str(tmp_path / "small.yaml"), *more])
        return done.output, done.exception

    _, refused = run("one")
    assert isinstance(refused, UserError)
    assert "--accept-licence" in str(refused)
    output, error = run("one", "--accept-licence")
    assert error is None, error
    assert "projector" in output
    assert f"model.sources.projector={tmp_path / 'one'}" in output
    assert run("two")[1] is None  # accepted before
    assert json.loads((tmp_path / "one" / "import.json").read_text())["terms"].startswith("VITA-1.5")
    output, error = run("three", "--set", "model.llm.hidden_size=64", "--set", "model.llm.num_heads=8")
    assert isinstance(error, CheckpointError)
    assert "model.mm_projector.0.weight" in output
    assert json.loads((tmp_path / "three.ledger.json").read_text())["counts"]["projector"]["shape"] == 4


def write_shards(tensors: dict[str, Tensor], directory: Path, count: int = 3) -> None:
    """Write tensors as shards with an index, as transformers does."""
    names = sorted(tensors)
    weight_map = {}
    for k in range(count):
        file = f"model-{k + 1:05d}-of-{count:05d}.safetensors"
        save_file({name: tensors[name] for name in names[k::count]}, directory / file)
        weight_map |= dict.fromkeys(names[k::count], file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_speech_directory(modules: nn.ModuleDict, directory: Path, statistics_text: str, *, statistics: bool = True,
                           settings: str = "model_conf: {norm: layer}") -> None:
    start = "model.audio_encoder."
    state = {name.removeprefix(start): tensor for name, tensor in released(modules).items() if name.startswith(start)}
    if not statistics:
        state = {name: tensor for name, tensor in state.items() if "global_cmvn" not in name}
    torch.save(state, directory / "final.pt")
    (directory / "global_cmvn").write_text(statistics_text)
    (directory / "train.yaml").write_text(settings + "\n")


class Touch:
    """What a hostile pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(ours: nn.ModuleDict, small_spec: ModelSpec,
                                                   tmp_path: Path) -> None:
    path = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": torch.zeros(2), "x": Touch(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError, match=r"mm_projector.bin: holds more than tensors"):
        open_source(path)
    write_speech_directory(ours, tmp_path, "{}")
    torch.save({"x": Touch(tmp_path / "ran")}, tmp_path / "final.pt")
    with pytest.raises(CheckpointError, match=r"final.pt: holds more than tensors"):
        open_source(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"PK\x03\x04" + b"\0" * 40, b"x" * 100])
def test_damaged_pickles_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mm_projector.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"mm_projector.bin") as caught:
        open_source(tmp_path / "mm_projector.bin")
    assert "\n" not in str(caught.value)


def test_truncated_pickles_are_one_line(ours: nn.ModuleDict, tmp_path: Path) -> None:
    path = tmp_path / "mm_projector.bin"
    torch.save(ours["projector"].state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_claims_more_than_its_file_holds_is_never_made(small_spec: ModelSpec, tmp_path: Path) -> None:
    torch.save({"model.mm_projector.0.bias": torch.zeros(1).expand(1 << 40)}, tmp_path / "mm_projector.bin")
    made = plan(tmp_path / "mm_projector.bin", small_spec)
    with pytest.raises(CheckpointError, match=r"0.bias has another shape: 1099511627776 there, 32 in the recipe"):
        write_import(made, tmp_path / "out")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..",
                                  "..\\x.safetensors", "final.pt"])
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(CheckpointError, match="which is no safetensors file of its directory") as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("index", "message"), [
    ("[]", "is not a JSON object"), ("{", "is not JSON"), ("{}", "has no weight_map"),
    ('{"weight_map": {"a": 3}}', "has no weight_map"), ("[" * 100_000, "is not JSON"),
    ('{"weight_map": {"a": "gone.safetensors"}}', "names gone.safetensors, which is missing"),
    ('{"weight_map": {"other": "x.safetensors"}}', "disagree about tensor 'a'"),
])
def test_damaged_indices_are_one_line(tmp_path: Path, index: str, message: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tensor_stored_twice_is_refused(tmp_path: Path) -> None:
    for name in "xy":
        save_file({"a": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"'a' is stored twice, in x.safetensors and y.safetensors"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "mm_projector.bin"])
def test_links_out_of_the_directory_are_refused(ours: nn.ModuleDict, tmp_path: Path, name: str) -> None:
    tensors = {f"model.mm_projector.{key}": tensor for key, tensor in ours["projector"].state_dict().items()}
    (tmp_path / "real").mkdir()
    (tmp_path / "given").mkdir()
    save_file(tensors, tmp_path / ("given" if name == "config.json" else "real") / "model.safetensors")
    torch.save(tensors, tmp_path / "real" / "mm_projector.bin")
    (tmp_path / "real" / "config.json").write_text("{}")
    (tmp_path / "given" / name).symlink_to(tmp_path / "real" / name)
    with pytest.raises(CheckpointError, match=rf"{name}: is a link out of its directory"):
        open_source(tmp_path / "given" / (name if name.endswith(".bin") else ""))


def test_the_links_of_the_hubs_cache_are_followed(ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({name: tensor.clone() for name, tensor in released(ours).items()}, blobs / "123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    assert difference(ours, imported(snapshot, small_spec, tmp_path / "out")) == ""


def test_an_import_replaces_an_import_and_nothing_else(ours: nn.ModuleDict, small_spec: ModelSpec,
                                                       tmp_path: Path) -> None:
    save_modules({"projector": ours["projector"]}, tmp_path)
    torch.save({f"model.mm_projector.{key}": tensor for key, tensor in ours["projector"].state_dict().items()},
               tmp_path / "mm_projector.bin")
    made = plan(tmp_path / "mm_projector.bin", small_spec)
    write_import(made, tmp_path / "out")
    write_import(made, tmp_path / "out")
    with pytest.raises(UserError, match="exists and is no import"):
        write_import(made, tmp_path)
    with pytest.raises(UserError, match="has no llm"):
        plan(tmp_path / "mm_projector.bin", small_spec, ("llm",))
    with pytest.raises(CheckpointError, match="layout that is not known"):
        open_source(tmp_path)
