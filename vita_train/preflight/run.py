"""Checks before a run: what can be known to fail is said in the first seconds, with the remedy."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vita_train import __version__
from vita_train.console import Check, Found, check
from vita_train.errors import UserError
from vita_train.launch.process import has_gpu
from vita_train.launch.stage import backend_of, open_backend
from vita_train.pipeline.step_inputs import pretrained_digests, require_manifest
from vita_train.plugins import named
from vita_train.preflight.coverage import check_coverage, check_dry_batch
from vita_train.preflight.disk import plan_disk
from vita_train.preflight.features import feature_bytes
from vita_train.preflight.media import check_roots
from vita_train.preflight.memory import check_memory
from vita_train.preflight.packages import check_packages
from vita_train.preflight.rates import rate_warnings
from vita_train.preflight.records import splits_here
from vita_train.preflight.sources import check_sources
from vita_train.preflight.subprocesses import RefusedError, ask
from vita_train.recipe.check import check_recipe
from vita_train.recipe.data import Source
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import Selection, input_stages, run_steps
from vita_train.recipe.sources import SOURCES, RecordsSource
from vita_train.runs.run import Run
from vita_train.storage.digest import digest_of
from vita_train.storage.disk_errors import machine_faults
from vita_train.storage.factory import open_file
from vita_train.storage.local import LocalStore
from vita_train.storage.store_probe import try_store
from vita_train.weights.pretrained import pretrained_modules

_GIB = 2**30
#: Resident memory of a process that has imported the training stack, before any weights.
_PROCESS_BYTES = 1 * _GIB
#: Seconds for which a store that does not answer is tried again: a wrong address should be reported
#: soon.
_RETRY_TIMEOUT = 10.0
#: Free space below which nothing is worth starting.
_LEAST_FREE = 2 * _GIB


def check_all(
    run: Run, selection: Selection | None = None, *, thorough: bool = False, gpu: str = ""
) -> list[Check]:
    """Return the outcome of every check, in order. A check that fails does not keep the others from
    being made.

    Args:
        run: of which.
        selection: the steps to be done; all where not given.
        thorough: ask the hub for pretrained sources too, and read the prepared index.
        gpu: what the recipe will run on, its memory in GB at the end: ``h100-80``; its memory is
            looked at in place of this machine's.
    """
    recipe, chosen = run.recipe, selection or Selection()
    parameters: dict[str, int] = {}
    adapters: dict[str, dict[str, int]] = {}
    checks: list[tuple[str, Callable[[], str | Found]]] = [
        ("recipe", lambda: _recipe(recipe, chosen)),
        ("packages", lambda: check_packages(recipe)),
        ("storage", lambda: _storage(run)),
        ("job backend", lambda: open_backend(recipe).check(run)),
        ("data sources", lambda: _source(recipe)),
        ("media folders", lambda: check_roots(run)),
        ("prepared data", lambda: _prepared(run)),
        *([("supervision", lambda: check_coverage(run))] if thorough else []),
        *([("dry batches", lambda: check_dry_batch(run))] if thorough else []),
        ("earlier stages", lambda: _earlier(run, chosen)),
        ("pretrained", lambda: check_sources(recipe, ask_hub=thorough)),
        *([("initial weights", lambda: initial_weights(recipe))] if recipe.weights else []),
        ("model", lambda: _model(run, parameters, adapters)),
        *([("memory of GPUs", lambda: check_memory(recipe, gpu))] if gpu else []),
        (
            "memory and disk",
            lambda: _resources(run, chosen, parameters, adapters, elsewhere=bool(gpu)),
        ),
        ("ports", _ports),
    ]
    return [check(name, machine_faults()(work)) for name, work in checks]


def check_before_submission(recipe: Recipe, selection: Selection, *, gpu: str = "") -> list[Check]:
    """Return the outcome of the checks that need no cluster: what the server's own first steps
    would say after minutes is said before anything is uploaded.

    Args:
        recipe: resolved.
        selection: the steps to be done.
        gpu: what the recipe will run on, as of `check_all`; nothing is held against it where it is
            empty.
    """
    checks: list[tuple[str, Callable[[], str | Found]]] = [
        ("recipe", lambda: _recipe(recipe, selection)),
        ("pretrained", lambda: check_sources(recipe, ask_hub=True)),
        ("model", lambda: _described(recipe, _count(recipe)["modules"])),
        *([("memory of GPUs", lambda: check_memory(recipe, gpu))] if gpu else []),
    ]
    return [check(name, machine_faults()(work)) for name, work in checks]


def _recipe(recipe: Recipe, selection: Selection) -> Found:
    check_recipe(recipe)
    steps = selection.steps(recipe)
    if not steps:
        raise UserError(
            "none of the chosen steps is in the recipe",
            code="VT-USE-076",
            remedy=f"its stages are {', '.join(recipe.stages)}",
        )
    return Found(
        f"{recipe.name}, {len(recipe.stages)} stages, seed {recipe.seed}; to do: {steps[0]} to "
        f"{steps[-1]}",
        rate_warnings(recipe),
    )


def _storage(run: Run) -> str:
    store = run.store_trying(_RETRY_TIMEOUT)
    try_store(store, run.key("logs"))
    return f"{store.uri} can be written"


def _source(recipe: Recipe) -> str:
    """Each source can be had, and together they have every dataset that a stage trains on; or what
    is prepared fits the recipe."""
    if recipe.data.prepared:
        from vita_train.data.prepare.reuse import check_reusable

        check_reusable(recipe, Path(recipe.data.prepared))
        return f"prepared in {recipe.data.prepared}, as this recipe asks for"
    found = [f"{name}: {_source_found(source)}" for name, source in recipe.data.source.items()]
    own = [source for source in recipe.data.source.values() if isinstance(source, RecordsSource)]
    if len(own) == len(recipe.data.source):  # what others will have shows when they are fetched
        from vita_train.data.sources.own import own_registry

        there = {name for source in own for name in own_registry(source).datasets}
        absent = sorted(
            {name for stage in recipe.stages.values() for name in stage.datasets} - there
        )
        if absent:
            raise UserError(
                f"the recipe trains on {', '.join(absent)}, which no source has",
                code="VT-USE-078",
                where="data.source",
                remedy=f"they have {', '.join(sorted(there))}",
            )
    return "; ".join(found)


def _source_found(source: Source) -> str:
    look = SOURCES[source.kind].check
    return str(named(look)(source)) if look else f"source of kind {source.kind}"


def _prepared(run: Run) -> str:
    manifest = run.final("prepare")
    if manifest is None:
        return "not prepared yet; the run does it"
    if run.is_local and not (run.corpus_dir / "ledger.json").is_file():
        raise UserError(
            "the prepared corpus is committed, but its files are gone",
            code="VT-USE-083",
            where=str(run.corpus_dir),
            remedy="run again with --only prepare --force",
        )
    return f"corpus {manifest.digest[:12]}"


def _earlier(run: Run, selection: Selection) -> str:
    """Every step that a chosen one builds on is chosen too, or committed."""
    recipe = run.recipe
    steps = selection.steps(recipe)
    before: dict[str, list[str]] = {
        "prepare": ["data_fetch"],
        "preflight": ["prepare"],
        "evaluate": list(recipe.stages),
        "export": list(recipe.stages),
        "report": [*recipe.stages, "evaluate"],
    }
    for step in steps:
        for source in before.get(step) or (
            ["prepare", *input_stages(recipe, step)] if step in recipe.stages else []
        ):
            if source not in steps:
                require_manifest(run, source, by=step)
    return "present" if steps != run_steps(recipe) else "all of them are part of the run"


def initial_weights(recipe: Recipe) -> str:
    """Say which modules start from weights that were made elsewhere.

    Raises:
        VitaError: a place holds no such module, or a file of it is missing or of another size.
    """
    modules = pretrained_modules(recipe)
    for file in (file for ref in modules.values() for file in ref.files):
        store, key = open_file(file.uri, endpoint=recipe.storage.endpoint)
        if (size := store.size(key)) != file.bytes:
            raise UserError(
                f"has {size} bytes, {file.bytes} are listed",
                code="VT-USE-084",
                where=file.uri,
                remedy="import or copy it again",
            )
    return ", ".join(f"{name} from {recipe.weights[name]}" for name in modules)


def _model(run: Run, parameters: dict[str, int], adapters: dict[str, dict[str, int]]) -> str:
    """Build the model on the meta device in a process of its own; the counts are kept for the next
    time."""
    recipe = run.recipe
    lora = {
        stage: spec.lora.model_dump(mode="json")
        for stage, spec in recipe.stages.items()
        if spec.lora
    }
    digest = digest_of(
        {
            "model": recipe.model.model_dump(mode="json"),
            "lora": lora,
            "version": __version__,
            **pretrained_digests(recipe),
        }
    )
    cache = run.logs_dir() / "model.json"
    counted = _counted_before(cache, digest)
    if counted is None:
        counted = _count(recipe)
        text = json.dumps({"digest": digest, "counted": counted})
        LocalStore(cache.parent).write(
            cache.name, text.encode()
        )  # whole or absent after a full disk or a power cut
    parameters.update(counted["modules"])
    adapters.update(counted["adapters"])
    return _described(recipe, parameters)


def _described(recipe: Recipe, parameters: Mapping[str, int]) -> str:
    counts = ", ".join(f"{name} {_millions(count)}" for name, count in parameters.items() if count)
    tile = recipe.model.tile_tokens
    merged = (
        f", {tile.merged} where its tokens are merged ({tile.merged / tile.whole:.3f})"
        if tile.are_merged
        else ""
    )
    return (
        f"{_millions(sum(parameters.values()))} parameters: {counts}; a tile of "
        f"{recipe.model.vision.tile_size} pixels takes {tile.whole} positions{merged}"
    )


def _counted_before(cache: Path, digest: str) -> dict[str, Any] | None:
    """What was counted for the same digest; None where it was not, or the file cannot be read any
    more."""
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        counted = known["counted"] if known["digest"] == digest else None
        return (
            counted
            if isinstance(counted, dict) and {"modules", "adapters"} <= counted.keys()
            else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _count(recipe: Recipe) -> dict[str, Any]:
    try:
        return ask("vita_train.planning.parameters", recipe)
    except RefusedError as error:
        raise UserError(
            f"the model cannot be built: {error}",
            code="VT-USE-085",
            where="model",
            remedy="correct the model's sizes",
        ) from None


def _resources(
    run: Run,
    selection: Selection,
    parameters: dict[str, int],
    adapters: dict[str, dict[str, int]],
    *,
    elsewhere: bool = False,
) -> str:
    """Hold memory and disk of this machine against the recipe; ``elsewhere``: not its memory."""
    if not parameters:
        return "not estimated, because the model cannot be built"
    recipe = run.recipe
    bytes_each = 4 if recipe.model.dtype == "float32" else 2
    weights = sum(parameters.values()) * bytes_each
    # Per trained parameter: a gradient, a float32 master copy, and AdamW's two moments.
    trained = {
        stage: sum(adapters.get(stage, {}).get(name, parameters[name]) for name in spec.trainable)
        for stage, spec in recipe.stages.items()
    }
    state, stage = max((count * (bytes_each + 12), stage) for stage, count in trained.items())
    memory = recipe.launch.nproc * (_PROCESS_BYTES + weights + state)
    parts = [f"about {memory / _GIB:.1f} GiB in {recipe.launch.nproc} processes at stage {stage}"]
    if not elsewhere and not backend_of(recipe).here:
        parts.append("of the cluster's; --gpu h100-80 holds them against its GPUs")
    elif not elsewhere and not has_gpu():
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if memory > there:
            raise UserError(
                f"training needs about {memory / _GIB:.1f} GiB at stage {stage}, this machine has "
                f"{there / _GIB:.1f} GiB",
                code="VT-USE-086",
                where="launch.nproc",
                remedy="lower launch.nproc, or take a smaller model or a machine with GPUs",
            )
        parts.append(f"of {there / _GIB:.1f} GiB")
    if run.is_local:
        steps = selection.steps(recipe)
        todo = [
            stage
            for stage in recipe.stages
            if stage in steps and (selection.force or not _is_done(run, stage))
        ]
        prepares = "prepare" in steps and (selection.force or not _is_done(run, "prepare"))
        plan = plan_disk(
            recipe,
            todo,
            trained,
            sum(parameters.values()),
            exports="export" in steps,
            # In the corpus, and in the parts that it is joined from.
            features=2 * feature_bytes(recipe, splits_here(run)) if prepares else 0,
        )
        disk = _LEAST_FREE + plan.total
        free = shutil.disk_usage(run.dir).free
        if free < disk:
            raise UserError(
                f"about {disk / _GIB:.1f} GiB of disk are needed, {free / _GIB:.1f} GiB are free: "
                f"checkpoints of "
                f"{len(todo)} stages take {(plan.checkpoints + plan.in_flight) / _GIB:.1f} GiB, "
                f"weights "
                f"{plan.weights / _GIB:.1f} GiB, stored features {plan.features / _GIB:.1f} GiB",
                code="VT-USE-130",
                where=str(run.dir),
                remedy=f"free some space, choose another storage.root, or lower storage.keep_last "
                f"({recipe.storage.keep_last} now)",
            )
        parts.append(f"and {disk / _GIB:.1f} GiB of disk, {free / _GIB:.1f} GiB free")
    return " ".join(parts)


def _is_done(run: Run, stage: str) -> bool:
    return run.store.exists(run.final_key(stage))


def _ports() -> str:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        raise UserError(
            f"no port can be opened on 127.0.0.1: {error.strerror}",
            code="VT-USE-088",
            remedy="the ranks of a job meet there; allow it",
        ) from error
    return "the ranks can meet on 127.0.0.1"


def _millions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
