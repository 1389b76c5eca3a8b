"""Recipes are read strictly, and what is wrong is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.recipe.load import dump_recipe, load_recipe, parse_recipe
from vita_train.recipe.yaml_tree import dump_yaml, parse_yaml

GOOD = """\
name: mine
stages:
  1.1:
    objective: next_token
    data: {caption: 1}
    trainable:
      projector: 2e-3
    steps: 5
"""
#: What every recipe has besides.
DATA = "data: {source: {own: {kind: records, registry: r.json}}}\n"
GOOD += DATA


def test_a_file_becomes_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    recipe = load_recipe(str(path))
    assert recipe.stages["1.1"].steps == 5
    assert recipe.stages["1.1"].trainable == {"projector": 0.002}
    assert load_recipe(GOOD) == recipe
    assert load_recipe(dump_recipe(recipe)) == recipe


def test_a_recipe_that_travelled_sets_no_more_of_the_pod_than_its_author() -> None:
    recipe = load_recipe(GOOD + "launch: {settings: {kubernetes: {pod: {cpu: '4'}}}}\n")
    assert load_recipe(dump_recipe(recipe)).launch.settings.kubernetes.pod.model_fields_set == {
        "cpu"
    }


def graph_of(**after: str) -> str:
    """A recipe of stages that train the projector one after the other, but for what they say
    themselves."""
    lines = [
        f"  {name}: {{objective: next_token, data: {{caption: 1}}, trainable: {{projector: 1e-3}}, "
        f"steps: 1"
        f"{text}}}"
        for name, text in after.items()
    ]
    return "\n".join(["name: m", "stages:", *lines, DATA])


def test_a_stage_starts_after_the_one_written_before_it_unless_it_says() -> None:
    recipe = load_recipe(graph_of(first="", second="", third=", after: [second]"))
    assert {name: spec.after for name, spec in recipe.stages.items()} == {
        "first": [],
        "second": ["first"],
        "third": ["second"],
    }
    assert recipe.stages["third"].title == "third"


def test_stages_run_in_the_order_of_the_graph_and_else_as_they_are_written() -> None:
    recipe = load_recipe(
        graph_of(last=", after: [middle]", first=", after: []", middle=", after: [first]")
    )
    assert list(recipe.stages) == ["first", "middle", "last"]


@pytest.mark.parametrize(
    ("after", "line", "facts"),
    [
        (
            {"one": "", "two": ", after: [won]"},
            4,
            ["two", "'won'", "one, two"],
        ),
        (
            {"one": ", after: [two]", "two": ""},
            3,
            ["one -> two -> one"],
        ),
        ({"one": ", after: [one]"}, 3, ["one -> one"]),
        (
            {"one": "", "two": ", after: []"},
            4,
            ["two", "projector", "one"],
        ),
        ({"one": "", "Two": ""}, 4, ["Two"]),
        ({"one": "", "prepare": ""}, 4, ["prepare"]),
    ],
)
def test_a_graph_that_cannot_be_run_is_refused_with_its_line(
    after: dict[str, str], line: int, facts: list[str]
) -> None:
    with raises_code(RecipeError, "VT-RECIPE-033", *facts) as caught:
        parse_recipe(graph_of(**after), "m.yaml")
    assert caught.value.where == f"m.yaml:{line}"


def test_names_of_stages_are_text_wherever_they_stand() -> None:
    later = (
        "  1.20: {objective: next_token, data: {a: 1}, trainable: {llm: 1}, steps: 1, after: "
        "[1.10]}\n"
    )
    recipe = load_recipe(
        GOOD.replace("1.1:", "1.10:").replace(DATA, later + DATA), ["stages.1.20.after=[1.10]"]
    )
    assert recipe.stages["1.20"].after == ["1.10"]


@pytest.mark.parametrize(
    ("change", "line", "code", "facts"),
    [
        (("steps: 5", "stepz: 5"), 8, "VT-RECIPE-050", ["'stepz'", "stages.1.1", "'steps'"]),
        # Two mistakes: one key too many, and one that is missing.
        (("name: mine", "nmae: mine"), 1, "VT-RECIPE-043", ["VT-RECIPE-050", "'nmae'", "'name'"]),
        (("steps: 5", "steps: five"), 8, "VT-RECIPE-048", ["stages.1.1.steps", '"five"']),
        (("steps: 5", "steps: '5'"), 8, "VT-RECIPE-048", ["stages.1.1.steps", '"5"']),
        (("steps: 5", "steps: 0"), 8, "VT-RECIPE-048", ["stages.1.1.steps", "not 0"]),
        (("steps: 5", "steps: yes"), 8, "VT-RECIPE-048", ["stages.1.1.steps", '"yes"']),
        (("name: mine", "name: 7"), 1, "VT-RECIPE-048", ["name", "quote it"]),
        (("next_token", "next_tokens"), 4, "VT-RECIPE-047", ["stages.1.1.objective", "next_token"]),
        (("2e-3", "[1]"), 7, "VT-RECIPE-048", ["stages.1.1.trainable.projector", "[1]"]),
        (("projector:", "projecter:"), 3, "VT-RECIPE-047", ["['projecter']", "projector"]),
        (("    steps: 5\n", ""), 3, "VT-RECIPE-047", ["stages.1.1", "steps", "epochs"]),
        (
            ("    steps: 5\n", "    steps: 5\n    curriculum: [{steps: 5, data: {recall: 1}}]\n"),
            3,
            "VT-RECIPE-047",
            ["stages.1.1", "curriculum", "5 steps"],
        ),
        (
            ("    steps: 5\n", "    epochs: 2\n    curriculum: [{steps: 1, data: {recall: 1}}]\n"),
            3,
            "VT-RECIPE-047",
            ["stages.1.1", "curriculum", "steps"],
        ),
        (
            ("next_token\n", "ctc\n    curriculum: [{steps: 1, data: {recall: 1}}]\n"),
            3,
            "VT-RECIPE-047",
            ["stages.1.1", "curriculum", "ctc"],
        ),
        (
            ("    steps: 5\n", "    steps: 5\n    steps: 6\n"),
            9,
            "VT-RECIPE-055",
            ["'steps'", "line 8"],
        ),
        (("2e-3", "!!python/name:os.system"), 7, "VT-RECIPE-057", ["os.system"]),
        (("{caption: 1}", "{caption: 1"), 6, "VT-RECIPE-051", []),
        (("2e-3", "1e999"), 7, "VT-RECIPE-056", ["1e999"]),
        (("stages:", "? [a]\n: 1\nstages:"), 2, "VT-RECIPE-054", []),
    ],
)
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, code: str, facts: list[str]
) -> None:
    path = tmp_path / "mine.yaml"
    assert change[0] in GOOD
    path.write_text(GOOD.replace(*change))
    with raises_code(RecipeError, code, f"mine.yaml:{line}:", *facts):
        load_recipe(str(path))


def test_all_mistakes_are_told_in_the_order_of_their_lines() -> None:
    text = GOOD.replace("steps: 5", "stepz: 5") + "launch:\n  nprok: 2\nmodle: {}\n"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "mine.yaml")
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.partition(" ")[0] for line in lines] == [
        "mine.yaml:8:",
        "mine.yaml:11:",
        "mine.yaml:12:",
    ]
    for line, key in zip(lines, ("steps", "nproc", "model"), strict=True):
        assert f"did you mean '{key}'" in line


def test_keys_of_a_chosen_source_are_its_own() -> None:
    def with_source(text: str) -> str:
        return GOOD.replace(DATA, f"data:\n  source:\n    own: {text}\n")

    listed = "{kind: catalogue, name: ljspeech, accept_licence: true}"
    with raises_code(RecipeError, "VT-RECIPE-047", "data.source.more", "fetch"):
        load_recipe(GOOD, [f"data.source.more={listed}"])
    with raises_code(RecipeError, "VT-RECIPE-050", "data.source.own", "'registry'"):
        parse_recipe(with_source("{kind: records, registri: x, registry: y}"), "m")
    with raises_code(RecipeError, "VT-RECIPE-044", "m:11"):
        parse_recipe(with_source("{kind: records}"), "m")
    with raises_code(RecipeError, "VT-RECIPE-045", "m:11", "synth, stamps, records"):
        parse_recipe(with_source("{kind: recrods}"), "m")


def test_a_recipe_says_where_its_data_come_from() -> None:
    with raises_code(RecipeError, "VT-RECIPE-044"):
        parse_recipe(GOOD.replace(DATA, ""), "m")
    with raises_code(RecipeError, "VT-RECIPE-047", "m:9"):
        parse_recipe(GOOD.replace(DATA, "data: {state_mode: none}\n"), "m")
    with raises_code(RecipeError, "VT-RECIPE-032", "m:10", "source: {synth: {kind: synth"):
        parse_recipe(GOOD.replace(DATA, "data:\n  source: {kind: synth}\n"), "m")
    assert set(load_recipe(GOOD, ["data.source.more={kind: synth, scale: 2}"]).data.source) == {
        "own",
        "more",
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "- 1\n- 2\n",
        "just words\n",
        "\x00\n",
        "a: &a [*a]\n",
        "{}\n",
        'name: "\\ud800"\nstages: {}\n',
    ],
)
def test_what_is_no_recipe_at_all(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(text, "m")


def test_anchors_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with raises_code(RecipeError, "VT-RECIPE-053"):
        parse_recipe("\n".join(lines), "m")


def test_missing_files_and_unknown_names(tmp_path: Path) -> None:
    with raises_code(RecipeError, "VT-RECIPE-035"):
        load_recipe("tinny")
    with raises_code(RecipeError, "VT-RECIPE-034"):
        load_recipe(str(tmp_path / "gone.yaml"))
    with raises_code(RecipeError, "VT-RECIPE-029"):
        load_recipe(str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with raises_code(RecipeError, "VT-RECIPE-028", "UTF-8"):
        load_recipe(str(tmp_path / "binary.yaml"))


@pytest.mark.parametrize(
    "value",
    [
        1e-05,
        2e-3,
        1.0,
        -7,
        0,
        True,
        None,
        "",
        "no",
        "on",
        "1.1",
        "1e-3",
        "null",
        "true",
        "~",
        "a: b",
        "- x",
        "#",
        "é",
        "two\nlines",
        " padded ",
        "2001-01-01",
        "0x10",
        [1, [2, {}]],
        {"1.1": {"a.b": []}},
    ],
)
def test_yaml_reads_back_what_it_wrote(value: object) -> None:
    back = parse_yaml(dump_yaml({"key": value}), "x").value["key"]
    assert back == value
    assert type(back) is type(value)


def test_a_registry_is_looked_for_beside_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text(GOOD)
    (tmp_path / "mine" / "r.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    source = load_recipe("mine/mine.yaml").data.source["own"]
    assert source.registry == str(tmp_path / "mine" / "r.json")
    source = load_recipe("mine/mine.yaml", ["data.source.own.registry=other.json"]).data.source[
        "own"
    ]
    assert source.registry == "other.json", "what is typed is relative to where it is typed"


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{a: " * 5_000])
def test_what_is_nested_too_deeply_is_an_error_of_ours(text: str) -> None:
    with raises_code(RecipeError, "VT-RECIPE-091"):
        parse_recipe(text, "r")
