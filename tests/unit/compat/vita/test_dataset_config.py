"""The public data configuration: read by its syntax, refused with its line, never executed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from vita_train.cli.main import build_app
from vita_train.compat.vita import dataset_config as public
from vita_train.data.sources.public_config import infer_kind, to_registry
from vita_train.data.sources.registry import load_registry
from vita_train.errors import UserError

CONFIG = '''"""Data."""
import os
AudioFolder = "/data/audio"
FolderDict = {"sharegpt4": "/data/sam", "gqa": "/data/gqa"}
BASE = "/data"
ShareGPT4V = {"chat_path": BASE + "/sharegpt4v.json", "data_ratio": 0.5, "coco": f"{BASE}/coco"}
GQA = {"chat_path": "/data/gqa.json", "gqa": ""}
Aishell = {"chat_path": "/data/aishell.json"}


def check(config):
    return os.system("touch /tmp/never")
'''
INIT = """from .dataset_config import *

NaturalCap0 = [ShareGPT4V]
Asks = [GQA, ShareGPT4V]
AudioCap = [Aishell]
DataConfig = {
    "Pretrain_video0": NaturalCap0,
    "Pretrain_video": NaturalCap0 + Asks,
    "Pretrain_audio": [AudioCap, NaturalCap0],
}
DataConfig["Finetune"] = Asks
NoPatchSets = ["khair", "jester"]
AudioSpecialSets = {"Aishell": {"max_seconds": 30}, "gqa": {"chunk_seconds": 30}, "nobody": {}}
"""


def written(at: Path, config: str = CONFIG, init: str = INIT) -> Path:
    (at / "dataset_config.py").write_text(config)
    (at / "__init__.py").write_text(init)
    return at


def test_sets_groups_roots_and_ratios(tmp_path: Path) -> None:
    config = public.read_config(written(tmp_path))
    assert list(config.datasets) == ["ShareGPT4V", "GQA", "Aishell"]
    assert config.datasets["ShareGPT4V"].ratio == 0.5
    assert config.datasets["ShareGPT4V"].roots == {"coco": "/data/coco"}
    assert config.stages["Pretrain_video"] == ["ShareGPT4V", "GQA", "ShareGPT4V"]
    assert config.stages["Pretrain_audio"] == ["Aishell", "ShareGPT4V"]
    assert config.stages["Finetune"] == ["GQA", "ShareGPT4V"]
    assert config.no_patch_sets == ["khair", "jester"]
    assert public.audio_processing(config, "Aishell") == "special"
    assert public.audio_processing(config, "GQA") == "standard"


def test_the_registry_of_it(tmp_path: Path) -> None:
    registry = to_registry(public.read_config(written(tmp_path))).registry
    assert registry.tasks == {"Aishell": "asr", "GQA": "qa", "ShareGPT4V": "caption"}
    gqa = registry.datasets["GQA"].splits["train"]
    assert gqa.roots == {"gqa": "/data/gqa", "sharegpt4": "/data/sam", "audio": "/data/audio"}
    assert gqa.default == "gqa"
    assert registry.datasets["ShareGPT4V"].ratio == 0.5
    assert registry.members("Pretrain_video") == {"ShareGPT4V": 2.0, "GQA": 1.0}
    assert registry.no_tile_sets == ["khair", "jester"]
    assert registry.audio_sets["Aishell"].max_seconds == 30
    assert registry.audio_sets["GQA"].chunk_seconds == 30, "named by its set key"
    assert len(registry.audio_sets) == 2


def test_another_root_for_images_and_the_audio_segment(tmp_path: Path) -> None:
    config = public.read_config(written(tmp_path))
    registry = to_registry(config, image_folder="/mine", audio_segment=True).registry
    for name, dataset in registry.datasets.items():
        roots = dataset.splits["train"].roots
        assert roots.pop("audio") == "/data/audio/audio", name
        assert set(roots.values()) == {"/mine"}


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("A = dict(chat_path='a')", 2),
        ("A = [x for x in (1, 2)]", 2),
        ("NaturalCap.append(1)", 2),
        ("for x in []:\n    pass", 2),
        ("if True:\n    A = 1", 2),
        ("import os\nA = os.environ['X']", 3),
        ("import os\nA = {'chat_path': os.path.join('a', 'b')}", 3),
        ("A = unknown", 2),
        ("A = [1] * 3", 2),
        ("A = lambda: 1", 2),
        ("A = {**[1]}", 2),
        ("A = {'a': 1, 'a': 2}", 2),
        ("A, B = 1, 2", 2),
        ("A.b = 1", 2),
        ("del A", 2),
        ("exec('1')", 2),
        ("while True: pass", 2),
        ("with open('x') as f: pass", 2),
        ("A = (", 2),
        ("from .dataset_config import nothing", 2),
        ("A = f'{1:>100000000}'", 2),
        ("A = {1: 'x'}", 2),
        ("A = 'a' + 1", 2),
    ],
)
def test_what_would_have_to_be_executed_is_refused_with_its_line(
    tmp_path: Path, line: str, where: int
) -> None:
    written(tmp_path, init=f"from .dataset_config import *\n{line}\n")
    with pytest.raises(UserError) as caught:
        public.read_config(tmp_path)
    assert caught.value.where == f"{tmp_path}/__init__.py:{where}"


@pytest.mark.parametrize(
    "init",
    [
        "A = [1] + [2]\n" + "A = A + A\n" * 60,
        "A = 'ab'\n" + "A = A + A\n" * 60,
        "A = " + "[" * 5000 + "]" * 5000,
        "A = " + "-" * 100_000 + "1",
        "\0",
        "from . import other\n",
        "from .b import *\n",
    ],
)
def test_bombs_and_loops_end_in_one_error(tmp_path: Path, init: str) -> None:
    (tmp_path / "b.py").write_text("from .c import *\n")
    (tmp_path / "c.py").write_text("from .b import *\n")
    (tmp_path / "other.py").write_text("import nothing\nnothing.do()\n")
    written(tmp_path, init=init)
    with pytest.raises(UserError):
        public.read_config(tmp_path)


@pytest.mark.parametrize(
    ("dataset", "key"),
    [
        ("{'chat_path': 3}", "chat_path"),
        ("{'chat_path': 'a', 'data_ratio': 0}", "data_ratio"),
        ("{'chat_path': 'a', 'data_ratio': -1}", "data_ratio"),
        ("{'chat_path': 'a', 'data_ratio': '1'}", "data_ratio"),
        ("{'chat_path': 'a', 'data_ratio': True}", "data_ratio"),
        ("{'chat_path': 'a', 'coco': 4}", "coco"),
        ("{'chat_path': 'a', 'ratio': '/x'}", "ratio"),
    ],
)
def test_wrong_values_are_refused_with_file_line_and_key(
    tmp_path: Path, dataset: str, key: str
) -> None:
    written(tmp_path, config=f"\nCaptions = {dataset}\n", init="")
    with pytest.raises(UserError) as caught:
        public.read_config(tmp_path)
    assert caught.value.where == f"{tmp_path}/dataset_config.py:2: Captions.{key}"


def test_empty_paths_are_all_listed(tmp_path: Path) -> None:
    written(
        tmp_path,
        config="Caps = {'chat_path': '',\n 'coco': ''}\nAsr = {'chat_path': 'a.json', 'x': ''}\n",
        init="",
    )
    config = public.read_config(tmp_path)
    assert len(public.check_required_keys(config)) == 3
    places = ("py:1: Caps.chat_path", "py:2: Caps.coco", "py:3: Asr.x")
    with raises_code(UserError, "VT-USE-172", *places):
        to_registry(config)


def test_the_five_functions(tmp_path: Path) -> None:
    config = public.read_config(written(tmp_path))
    assert not public.check_required_keys(config)
    assert len(public.check_chat_paths(config)) == 3
    assert public.check_groups({"a": [], "b": 3, "c": ["x"]}) == ["a is empty", "b is no list"]
    public.add_stage(config, "Mine", ["GQA"])
    with raises_code(UserError, "VT-USE-143", "exists"):
        public.add_stage(config, "Mine", ["GQA"])
    public.replace_group(config, "Mine", ["Aishell"])
    assert config.stages["Mine"] == ["Aishell"]
    for wrong in (
        lambda: public.replace_group(config, "No", []),
        lambda: public.add_stage(config, "New", ["No"]),
    ):
        with pytest.raises(UserError):
            wrong()
    assert len(public.validate(config)) == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ShareGPT4V0", "caption"), ("LLaVA_Instruct", "qa"), ("textvqa", "qa"),
        ("LibriSpeech", "asr"), ("LibriTTS_tts", "tts"), ("AudioQA", "speech_qa"),
        ("CustomCap", "caption"), ("neg_audio", "negative"), ("ShareGPT", "dialogue"),
        ("alpaca_zh", "instruct"), ("Foo", ""),
    ],
)  # fmt: skip
def test_kinds_are_told_from_names(name: str, kind: str) -> None:
    entry = public.PublicDataset(name, "x.json")
    assert infer_kind(entry, public.PublicConfig())[0] == kind


def command(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["data", "import-config", *map(str, words)])
    told = str(result.exception) if isinstance(result.exception, UserError) else result.output
    return result.exit_code, told


def test_the_command_asks_for_kinds_and_writes_a_registry(tmp_path: Path) -> None:
    written(
        tmp_path, config=CONFIG.replace("Aishell", "Foo").replace("aishell.json", "foo.json"),
        init=INIT.replace("Aishell", "Foo").replace('"Pretrain_audio"', '"Other"'),
    )  # fmt: skip
    out = tmp_path / "registry.yaml"
    code, told = command(tmp_path, "--out", out)
    assert code
    assert "--kind Foo=KIND" in told
    assert not out.exists()
    code, told = command(tmp_path, "--out", out, "--kind", "Foo=asr")
    assert code == 0, told
    assert "Foo: asr (--kind)" in told
    assert load_registry(out).tasks["Foo"] == "asr"
    assert yaml.safe_load(out.read_text())["groups"]["Finetune"] == ["GQA", "ShareGPT4V"]
    assert command(tmp_path, "--out", out, "--kind", "Foo=asr")[0]
    assert command(tmp_path, "--out", out, "--kind", "Foo=sing", "--force")[0]
    assert command(tmp_path, "--out", out, "--kind", "Bar=asr", "--force")[0]
    assert command(tmp_path, "--out", out, "--kind", "Foo", "--force")[0]


def test_dataset_use_names_a_group_of_it(tmp_path: Path) -> None:
    written(tmp_path)
    out = tmp_path / "registry.yaml"
    assert command(tmp_path, "--out", out)[0] == 0
    flags = [
        "train", "--dry-run", "--model_name_or_path", "m", "--vision_tower", "internvit",
        "--model_type", "qwen2p5_instruct", "--version", "qwen2p5_instruct",
        "--output_dir", str(tmp_path / "runs" / "x"), "--registry", str(out),
    ]  # fmt: skip
    from vita_train.compat.vita.build import public_run

    def members(registry: str, name: str) -> dict[str, float]:
        return load_registry(Path(registry)).members(name)

    run = public_run([*flags[2:], "--dataset_use", "Pretrain_video"], members=members)
    assert run.recipe.stages[run.stage].data == {"ShareGPT4V": 2.0, "GQA": 1.0}
    done = CliRunner().invoke(build_app(), [*flags, "--dataset_use", "Nothing"])
    assert done.exit_code
    assert "Pretrain_video0" in str(done.exception)
