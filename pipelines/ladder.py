"""The whole ladder, from raw data to a report. Components pass over what was not asked for.

The steps form one chain: each stage starts from the manifest of the one before. Parameters have defaults, so that a
run can be started from the KFP page by filling in the recipe alone.
"""

from typing import Any

from kfp import dsl

from components.audio_alignment.component import audio_alignment
from components.base_model.component import base_model
from components.codec.component import codec
from components.data_fetch.component import data_fetch
from components.data_validation.component import data_validation
from components.evaluate.component import evaluate
from components.export.component import export
from components.report.component import report
from components.sft.component import sft
from components.speech_decoder.component import speech_decoder
from components.vision_alignment.component import vision_alignment
from pipelines.cluster import on_cluster
from vita_train.recipe.selection import STEP_TITLES

#: Stages in order, each with the component that trains it.
CHAIN = (
    ("0.llm", base_model),
    ("0.vision", base_model),
    ("1.1", vision_alignment),
    ("1.2", vision_alignment),
    ("1.3", vision_alignment),
    ("2.1a", audio_alignment),
    ("2.1b", audio_alignment),
    ("2.2", sft),
    ("3.1", codec),
    ("3.2", speech_decoder),
)


@dsl.pipeline(name="vita-train-ladder", description="Train an omni model from raw data to a report.")
def ladder(
    recipe: str = "tiny",
    run: str = "",
    storage_root: str = "",
    overrides: list = [],  # noqa: B006  KFP reads the default, nothing changes it
    only: str = "",
    from_step: str = "",
    until_step: str = "",
    force: bool = False,
) -> None:
    """Train an omni model from raw data to a report.

    Args:
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's. A run that exists is continued.
        storage_root: Directory or s3:// URI under which runs lie; empty takes the recipe's.
        overrides: Settings as key.path=value, applied to the recipe in order.
        only: Steps to do, with commas between them; empty for all.
        from_step: First step to do; empty for the first.
        until_step: Last step to do; empty for the last.
        force: Do the chosen steps again even if they are committed.
    """
    common = {"recipe": recipe, "run": run, "storage_root": storage_root, "overrides": overrides, "only": only,
              "from_step": from_step, "until_step": until_step, "force": force}

    def named(task: dsl.PipelineTask, step: str) -> dsl.PipelineTask:
        # Our own commits decide what is done again; KFP's cache knows nothing of the recipe's content.
        return on_cluster(task).set_display_name(f"{step} {STEP_TITLES[step]}").set_caching_options(False)

    # The page shows how far a run came: it is written whatever happened before.
    with dsl.ExitHandler(named(report(**common), "report"), name="training"):
        fetched = named(data_fetch(**common), "data_fetch")
        corpus = named(data_validation(raw=fetched.outputs["raw"], **common), "prepare").outputs["corpus"]
        start: dict[str, Any] = {}
        for stage, component in CHAIN:
            task = named(component(stage=stage, corpus=corpus, **start, **common), stage)
            start = {"start": task.outputs["model"]}
        measured = named(evaluate(corpus=corpus, **start, **common), "evaluate")
        named(export(**start, **common).after(measured), "export")
