"""Records prepared ahead of training, whole or in chunks of their lines, each with its own commit:
what AuroraCap's ``process_untokenized_*`` scripts do."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from vita_train.console import say
from vita_train.data.prepare.ledger import PrepareLedger
from vita_train.data.prepare.run import prepare
from vita_train.data.sources.fetch import REGISTRY, fetch_all
from vita_train.data.sources.registry import Registry
from vita_train.data.sources.splitting import TRAIN
from vita_train.errors import DataError, RecipeError, UserError
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe

#: Lines of a chunk, as published.
LINES = 100_000
_CHUNK = "data_part_{:05d}.jsonl"
#: What a variable of a public configuration is called here.
_OURS = {
    "llm_name_or_path": "model.llm.source",
    "visual_encoder_name_or_path": "model.vision.source",
    "pretrained_pth": "weights",
    "data_path": "records of a dataset in the registry of data.source",
    "image_folder": "roots of that dataset",
    "offline_processed_text_folder": "data.prepared",
    "prompt_template": "model.llm.family, or data.template",
    "max_length": "stages.STAGE.batch.seq_len",
    "batch_size": "stages.STAGE.batch.global_batch_size, of all processes together",
    "accumulative_counts": "stages.STAGE.batch.grad_accum",
    "dataloader_num_workers": "launch.workers",
    "max_epochs": "stages.STAGE.epochs",
    "lr": "stages.STAGE.trainable.MODULE",
    "betas": "stages.STAGE.optim.betas",
    "weight_decay": "stages.STAGE.optim.weight_decay",
    "max_norm": "stages.STAGE.optim.max_grad_norm",
    "warmup_ratio": "stages.STAGE.optim.warmup",
    "save_steps": "stages.STAGE.checkpoint_interval",
    "save_total_limit": "storage.keep_last",
    "evaluation_freq": "stages.STAGE.eval.interval",
    "visual_token_merge_ratio": "model.vision.merge.keep",
    "slowfast": "model.vision.merge.slowfast",
}


def load_config(path: str, settings: list[str]) -> Recipe:
    """Return the recipe of a ``CONFIG`` argument.

    Raises:
        UserError: it is a Python configuration; it says what of it is called what in a recipe.
        RecipeError: it is no recipe.
    """
    if not path.endswith(".py"):
        return load_recipe(path, settings)
    mapped = [f"{name} = {value} is {_OURS[name]}" for name, value in _assigned(Path(path))]
    raise UserError(
        "is a Python configuration, which would have to be run to be read",
        code="VT-USE-304",
        where=path,
        remedy="give a recipe, such as auroracap-7b with --set; " + "; ".join(mapped)
        if mapped
        else "give a recipe, such as auroracap-7b with --set",
    )


def _assigned(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the variables of a configuration that a recipe knows, with what stands behind them;
    nothing of it is run."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"cannot be read: {error}",
            code="VT-USE-305",
            where=str(path),
            remedy="give a recipe: a name or a YAML file",
        ) from None
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in _OURS:
            yield target.id, ast.unparse(node.value)


def prepare_whole(
    recipe: Recipe, save: Path, *, workers: int = 1, progress: Callable[[str], None] = say
) -> PrepareLedger:
    """Prepare all data of a recipe at ``save``; what sources write themselves goes to
    ``<save>.raw``.

    Raises:
        DataError, RecipeError, UserError: as of fetching and preparing.
    """
    raw = _made(save.with_name(f"{save.name}.raw"))
    fetch_all(recipe.data.source, raw, seed=recipe.seed, workers=workers)
    return prepare(recipe, raw / REGISTRY, save, workers=workers, progress=progress)


def prepare_chunks(
    recipe: Recipe,
    records: Path,
    chunks: Path,
    save: Path,
    *,
    dataset: str = "",
    lines: int = LINES,
    workers: int = 1,
    progress: Callable[[str], None] = say,
) -> list[Path]:
    """Cut a file of records by lines and prepare each chunk by itself; return the corpora in order.

    A chunk that is done is not done again, and one that was begun goes on; `merge_prepared` joins
    them.

    Args:
        recipe: whose stages train on them; its registry says what the records' dataset is.
        records: JSON Lines.
        chunks: where the cut files go.
        save: where the corpora go, one folder a chunk.
        dataset: of the records; may be left out where the recipe's data have one.
        lines: of a chunk.
        workers: processes beside each other.
        progress: takes each line of progress.

    Raises:
        DataError, RecipeError, UserError: as of preparing; or chunks could have different
            tokenizers.
    """
    if recipe.tokenizer.source is None:
        raise RecipeError(
            "each chunk would train a tokenizer of its own",
            code="VT-RECIPE-098",
            where="tokenizer.source",
            remedy="name the tokenizer that all of them are to have",
        )
    _made(save)
    raw = _made(save.with_name(f"{save.name}.raw"))
    registry = fetch_all(recipe.data.source, raw, seed=recipe.seed, workers=workers)
    name = dataset or _only(registry)
    cut = _restricted(recipe, registry, name)
    made = []
    for chunk in cut_lines(records, chunks, lines):
        entry = registry.datasets[name]
        split = entry.splits[TRAIN].model_copy(update={"records": str(chunk.resolve())})
        alone = registry.model_copy(
            update={
                "datasets": {name: entry.model_copy(update={"splits": {TRAIN: split}})},
                "groups": {},
                "audio_sets": {key: v for key, v in registry.audio_sets.items() if key == name},
            }
        )
        # Beside the others: relative roots of the registry mean the same there
        path = raw / f"{chunk.stem}.json"
        alone.save(path)
        made.append(save / chunk.stem)
        prepare(cut, path, made[-1], workers=workers, progress=progress)
    return made


def _made(folder: Path) -> Path:
    """Make a folder.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot be made: {error.strerror}",
            code="VT-USE-308",
            where=str(folder),
            remedy="name a folder that can be written",
        ) from error
    return folder


def _only(registry: Registry) -> str:
    names = [name for name, entry in registry.datasets.items() if TRAIN in entry.splits]
    if len(names) != 1:
        raise UserError(
            "the recipe's data have several datasets",
            code="VT-USE-306",
            where="--dataset",
            remedy=f"name that of the records: {', '.join(sorted(names))}",
        )
    return names[0]


def _restricted(recipe: Recipe, registry: Registry, dataset: str) -> Recipe:
    """Return the recipe with the stages that train on a dataset, and of their data it alone."""
    stages = {
        stage: spec.model_copy(update={"data": {dataset: 1.0}, "curriculum": []})
        for stage, spec in recipe.stages.items()
        if dataset in spec.datasets
    }
    if dataset not in registry.datasets or not stages:
        raise UserError(
            f"no stage of the recipe trains on {dataset!r}, or its data have no such dataset",
            code="VT-USE-307",
            where="--dataset",
            remedy=f"they have {', '.join(sorted(registry.datasets))}",
        )
    return recipe.model_copy(update={"stages": stages})


def cut_lines(path: Path, folder: Path, lines: int = LINES) -> list[Path]:
    """Cut a file of JSON Lines into files of so many lines, ``data_part_00000.jsonl`` and so on;
    each appears whole or not at all.

    Raises:
        DataError: the file cannot be read, or the folder holds chunks of another file.
    """
    _made(folder)
    made: list[Path] = []
    try:
        with path.open("rb") as stream:
            while first := stream.readline():
                target = folder / _CHUNK.format(len(made))
                part = target.with_suffix(".part")
                with part.open("wb") as out:
                    out.write(first)
                    # The range first: zip must not take a line that it then drops
                    for _, line in zip(range(lines - 1), stream, strict=False):
                        out.write(line)
                part.replace(target)
                made.append(target)
    except OSError as error:
        raise DataError(
            f"cannot be cut: {error.strerror or error}",
            code="VT-DATA-151",
            where=str(error.filename or path),
            remedy="give a file of JSON Lines, and a folder that can be written",
        ) from error
    if others := sorted({*folder.glob("data_part_*.jsonl")} - {*made}):
        raise DataError(
            f"holds {len(others)} chunks of another file, the first is {others[0].name}",
            code="VT-DATA-152",
            where=str(folder),
            remedy="remove them, or name another folder: they would be merged with these",
        )
    return made
