"""What the documentation shows is understood: commands and options exist, recipes and registries
are valid."""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from tests.helpers.plugin_world import with_plugin, write_package
from vita_train.cli.main import build_app
from vita_train.data.sources.registry import load_registry
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    path
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if "decisions" not in path.parts and path.name not in ("public-arguments.md",)
]
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [
        text for name, text in _BLOCK.findall(path.read_text(encoding="utf-8")) if name == language
    ]


def commands() -> list[tuple[str, str]]:
    found = []
    for path in [*PAGES, ROOT / "README.md"]:
        for block in blocks(path, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.removeprefix(".venv/bin/")
                if words.startswith("vita-train "):
                    found.append((path.name, words))
    return found


@functools.cache
def command_tree() -> Any:
    return typer.main.get_command(build_app())


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_and_options_exist(page: str, line: str) -> None:
    command = command_tree()
    words = shlex.split(line)[1:]
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"{page}: {line}"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    if command.name != "train":  # it takes the public trainer's flags
        assert given <= known, f"{page}: {line}"


#: What needs no files of the reader's and answers at once. The data commands of your-data.md run in
#: tests/integration/test_your_data_page.py, the longer ones in tests of examples and of the README.
QUICK = ("recipe list", "recipe show", "recipe check tiny", "data list", "data show")


def test_quick_commands_of_the_pages_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = {line.removeprefix("vita-train ") for _, line in commands()}
    quick = sorted(line for line in lines if line.startswith(QUICK))
    assert {line.split()[0] for line in quick} == {"recipe", "data"}
    for line in quick:
        result = CliRunner().invoke(build_app(), shlex.split(line), catch_exceptions=False)
        assert (result.exit_code, bool(result.output.strip())) == (0, True), line


def test_the_recipe_and_registry_of_your_data_are_valid(tmp_path: Path) -> None:
    registry, public, recipe = blocks(ROOT / "docs" / "your-data.md", "yaml")
    (tmp_path / "public.yaml").write_text(public)
    assert load_registry(tmp_path / "public.yaml").datasets["mix665k"].split_off
    (tmp_path / "registry.yaml").write_text(registry)
    assert set(load_registry(tmp_path / "registry.yaml").datasets) == {"shop", "hotline"}
    (tmp_path / "shop.yaml").write_text(recipe)
    resolved = load_recipe(str(tmp_path / "shop.yaml"))
    check_recipe(resolved)
    assert resolved.stages["answers"].after == ["projector"]


def test_every_page_of_the_site_is_there_and_every_link_leads_somewhere() -> None:
    pages = re.findall(r": ([\w/.-]+\.md)", (ROOT / "mkdocs.yml").read_text())
    assert all((ROOT / "docs" / page).is_file() for page in pages)
    listed = {ROOT / "docs" / page for page in pages}
    assert not [path for path in PAGES if path not in listed and path.name != "public-arguments.md"]
    for path in PAGES:
        for link in re.findall(r"\]\(([\w./-]+\.md)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).is_file(), f"{path.name}: {link}"


@pytest.mark.parametrize(
    "page", [path for path in PAGES if blocks(path, "yaml")], ids=lambda path: path.name
)
def test_yaml_is_yaml(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block) is not None


def test_the_job_backend_of_the_page_is_one_that_a_recipe_can_name(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "add-a-job-backend.md"
    declared, implemented = blocks(page, "python")
    site = write_package(tmp_path, "my_package", declared=declared, queue=implemented)
    (launch,) = blocks(page, "yaml")
    settings = [f"--set=launch={json.dumps(yaml.safe_load(launch)['launch'])}"]
    told = subprocess.run(
        [sys.executable, "-c", CHECK_BACKEND, "smoke", *settings],
        env=with_plugin(site),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert told.strip() == "partition h100"


def test_the_tower_and_the_layout_of_the_page_are_known(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "add-a-tower.md"
    tower, network, layout = blocks(page, "python")
    site = write_package(tmp_path, "my_package", declared=tower + layout, patches=network)
    (model,) = blocks(page, "yaml")
    settings = [f"--set=model={json.dumps(yaml.safe_load(model)['model'])}"]
    told = subprocess.run(
        [sys.executable, "-c", CHECK_TOWER, "smoke", *settings],
        env=with_plugin(site),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # Two tokens by two of width 24; ``flat`` is listed beside the package's own layouts.
    assert told.strip().splitlines() == [
        "[1, 4, 24]",
        "adapter flat hf internvl llava llava-hf own vita vita-stage xtuner",
    ]


def test_the_language_family_and_the_import_layout_of_the_page_are_known(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "add-a-language-family.md"
    site = write_package(tmp_path, "my_package", declared="".join(blocks(page, "python")))
    (model,) = blocks(page, "yaml")
    small = {"source": None, "num_layers": 1, "hidden_size": 64, "num_heads": 2, "head_dim": 16}
    small |= {"num_kv_heads": 1, "intermediate_size": 32, "vocab_size": 600}
    llm = yaml.safe_load(model)["model"]["llm"] | small
    told = subprocess.run(
        [sys.executable, "-c", CHECK_FAMILY, str(tmp_path), json.dumps(llm)],
        env={**with_plugin(site), "DS_ACCELERATOR": "cpu"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # What the recipe says goes before the family's sizes, which go before the schema's.
    assert told.splitlines() == [
        "Qwen3ForCausalLM 64 40960 qwen2p5_instruct",
        "connector ['projector'] 0 faults",
        "VT-WEIGHTS-005",
    ]


CHECK_FAMILY = """
import json
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from vita_train.errors import CheckpointError
from vita_train.models.build import build_modules
from vita_train.models.inputs import OmniBatch
from vita_train.models.language.decoder import build_llm, decode, load_llm
from vita_train.recipe.load import load_recipe
from vita_train.weights.formats.importing import plan_import
from vita_train.weights.formats.source import open_source

at = Path(sys.argv[1])
llm = json.loads(sys.argv[2])
text = json.dumps({
    "name": "mine",
    "model": {"llm": llm, "speech_decoder": {"width": 16, "num_heads": 2},
              "projector": {"kind": "linear"}},
    "data": {"source": {"own": {"kind": "records", "registry": "r.json"}}},
    "stages": {"1.1": {"objective": "next_token", "data": {"caption": 1}, "steps": 1,
                       "trainable": {"projector": 1e-3}}},
})
recipe = load_recipe(text)
spec = recipe.model.llm
network = build_llm(spec)
positions = torch.arange(5)[None]
mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
hidden = decode(network, torch.randn(1, 5, 64), positions, mask).hidden
print(type(network).__name__, hidden.shape[-1], spec.max_positions, recipe.data.template)
projector = build_modules(recipe.model, ["projector"])["projector"]
(at / "theirs").mkdir()
save_file({f"connector.{name}": value for name, value in projector.state_dict().items()},
          at / "theirs" / "model.safetensors")
plan = plan_import(open_source(at / "theirs"), recipe.model)
print(plan.source.layout.name, list(plan.modules), len(plan.report.faults), "faults")
network.save_pretrained(at / "llm")
try:
    load_llm(spec.model_copy(update={"family": "llama3-8b"}), str(at / "llm"))
except CheckpointError as error:
    print(error.code)
"""
CHECK_TOWER = """
import sys
import torch
from vita_train.models.vision import build_vision
from vita_train.recipe.load import load_recipe
from vita_train.weights.export_layouts import EXPORT_LAYOUTS

recipe = load_recipe("smoke", [argument.removeprefix("--set=") for argument in sys.argv[2:]])
print(list(build_vision(recipe.model.vision)(torch.zeros(1, 3, 32, 32)).shape))
print(*sorted(EXPORT_LAYOUTS))
"""
CHECK_BACKEND = """
import sys
from vita_train.launch.stage import open_backend
from vita_train.recipe.load import load_recipe
from vita_train.runs.run import Run

run = Run(load_recipe("smoke", [argument.removeprefix("--set=") for argument in sys.argv[2:]]))
print(open_backend(run.recipe).check(run))
"""


def test_files_that_pages_name_are_there() -> None:
    for path in PAGES:
        for name in re.findall(
            r"`((?:vita_train|pipelines|components|charts|examples|tests|tools)/[\w./-]+)`",
            path.read_text(encoding="utf-8"),
        ):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_names_in_the_architecture_are_those_of_the_sources() -> None:
    files = [path for folder in ("vita_train", "pipelines") for path in (ROOT / folder).rglob("*")]
    known = {path.stem for path in [*files, *(ROOT / "tests").iterdir(), *ROOT.iterdir()]}
    for path in files:
        if path.suffix == ".py":
            known |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert not {name for name in re.findall(r"\b[A-Za-z]+_\w+\b", text) if name not in known}


def test_every_variable_of_the_sources_is_on_the_page_of_variables() -> None:
    known = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    files = [
        path
        for folder in ("vita_train", "components", "pipelines", "charts")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".tpl", "") and path.is_file()
    ]
    assert len(files) > 400
    used = {
        name
        for path in files
        for name in re.findall(r"VITA_TRAIN_[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8"))
    }
    assert not {name for name in used if f"`{name}`" not in known}


def test_commands_in_the_sources_exist() -> None:
    command = command_tree()
    groups = {
        name: set(group.commands)
        for name, group in command.commands.items()
        if hasattr(group, "commands")
    }
    for path in (ROOT / "vita_train").rglob("*.py"):
        for first, second in re.findall(
            r"vita-train ([a-z-]+)(?: ([a-z_-]+))?", path.read_text(encoding="utf-8")
        ):
            place = f"{path}: vita-train {first} {second}"
            if first in groups:
                assert not second or second in groups[first], place
            # Other words are prose; that of a group alone is a command that has moved into it
            else:
                assert first in command.commands or not any(
                    first in names for names in groups.values()
                ), place
