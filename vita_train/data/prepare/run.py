"""Records to a corpus that stages train on: checked, tokenised and indexed once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from vita_train.console import say
from vita_train.data.index.sample import MediaSettings
from vita_train.data.prepare.exchange import PartExchange
from vita_train.data.prepare.index_writer import IndexWriter
from vita_train.data.prepare.inputs import (
    check_datasets,
    input_digest,
    portable_roots,
    shares,
    source_of,
    unmeasured,
    with_registry,
)
from vita_train.data.prepare.ledger import Counting, PrepareLedger, SplitLedger, reject_line
from vita_train.data.prepare.parallel import PartMaker
from vita_train.data.prepare.part import FEATURES, PartStore
from vita_train.data.prepare.reuse import made_with
from vita_train.data.prepare.tokenizer_apart import save_tokenizer
from vita_train.data.prepare.vocabulary import CtcVocabBuilder
from vita_train.data.sources.reading import named
from vita_train.data.sources.registry import (
    AudioLimits,
    Registry,
    load_registry,
)
from vita_train.data.sources.source import open_splits
from vita_train.errors import DataError
from vita_train.recipe.schema import Recipe
from vita_train.storage.digest import sha256_file
from vita_train.storage.disk_errors import as_full_disk
from vita_train.storage.scratch import scratch_folder

Say = Callable[[str], None]
_PROGRESS_ROWS = 5000
#: What tells a corpus, also one that has lost its last file, and what it has beside its datasets.
_ALWAYS = {"ledger.json", "tokenizer"}
_WRITTEN = _ALWAYS | {"ctc_vocab.json", "rejects.jsonl", "meta.json"}


def prepare(
    recipe: Recipe,
    registry_path: Path,
    out: Path,
    *,
    workers: int = 1,
    force: bool = False,
    exchange: PartExchange | None = None,
    progress: Say = say,
) -> PrepareLedger:
    """Check every record and its media, and write the corpus to ``out``.

    Written are ``tokenizer/``, ``ctc_vocab.json``, ``<dataset>/<split>/`` (see `index_writer`),
    ``rejects.jsonl``, ``ledger.json`` and ``meta.json``. The directory appears whole or not at all;
    if it is there already with the same digest, nothing is done, and anything but a corpus at its
    place is refused. The result does not depend on ``workers``.

    The work is done by shards of the records, and what is done of each is kept in ``<out>.parts``:
    a preparation that was stopped goes on from there, and one of changed records does the shards
    that changed. That folder may be deleted.

    Args:
        recipe: settings of the corpus.
        registry_path: the registry of its records.
        out: directory to make.
        workers: processes beside each other.
        force: prepare everything again also where nothing seems to have changed: neither the
            digest of the whole nor those of the shards know the media's bytes.
        exchange: parts that other machines made (`prepare_share`).
        progress: takes each line of progress.

    Raises:
        DataError: something else lies at ``out``, a file cannot be read, or too many records of a
            split are rejected; their list is then kept beside ``out`` as ``<out>.rejects.jsonl``.
        RecipeError: the tokenizer does not fit the recipe.
    """
    registry_path, out = registry_path.resolve(), out.resolve()
    registry = load_registry(registry_path)
    check_datasets(recipe, registry, registry_path)
    recipe = with_registry(recipe, registry)
    for line in (*shares(recipe, registry), *unmeasured(recipe, registry)):
        progress(f"prepare: {line}")
    digest = input_digest(recipe, registry, registry_path)
    if not force and _is_done(out, digest):
        progress(f"prepare: {out} is up to date")
        return PrepareLedger.load(out / "ledger.json")
    partial = out.with_name(f"{out.name}.partial")
    parts = PartStore(out.with_name(f"{out.name}.parts"), registry_path.parent, exchange)
    _check_places(out, partial, parts, registry)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise as_full_disk(error, out) or DataError(
            f"cannot be written: {error.strerror or error}",
            code="VT-DATA-131",
            where=str(out),
            remedy="name a folder that can be made",
        ) from error
    if force:
        parts.clear()
    parts.clear_unfinished()
    try:
        ledger = _write(
            recipe, registry, registry_path, partial, out, digest, parts, workers, progress
        )
    # Ctrl-C too: only the parts are worth keeping
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # A kill between these two leaves no corpus, and all the parts: making it again takes moments
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    # Only now: until the corpus has its name, parts of the one before may still be wanted
    parts.prune()
    out.with_name(f"{out.name}.rejects.jsonl").unlink(missing_ok=True)
    progress(
        f"prepare: {ledger.used} of {ledger.records} records ready, {ledger.rejected} rejected"
    )
    return ledger


def _check_places(out: Path, partial: Path, parts: PartStore, registry: Registry) -> None:
    """Refuse to write where something else lies: what stands at these places is replaced.

    Raises:
        DataError: which place.
    """
    for place, is_ours in (
        (out, lambda names: not names or names >= _ALWAYS),
        (partial, lambda names: names <= _WRITTEN | {*registry.datasets}),
        (parts.root, parts.knows),
    ):
        if os.path.lexists(place) and not (place.is_dir() and is_ours({*os.listdir(place)})):
            raise DataError(
                "is there already and is no corpus of an earlier preparation",
                code="VT-DATA-130",
                where=str(place),
                remedy="name another place for the corpus: what is there would be replaced",
            )


def prepare_share(
    recipe: Recipe,
    registry_path: Path,
    out: Path,
    exchange: PartExchange,
    *,
    machine: int,
    machines: int,
    workers: int = 1,
    progress: Say = say,
) -> int:
    """Make the parts that fall to one of several machines, and hand them over; return how many
    there are. `prepare` makes the corpus of them.

    Args:
        recipe, registry_path, out, workers, progress: as of `prepare`; only ``<out>.parts`` is
            written.
        exchange: takes the parts.
        machine: number of this one, from 0.
        machines: how many there are.

    Raises:
        DataError, RecipeError: as of `prepare`.
    """
    registry_path, out = registry_path.resolve(), out.resolve()
    registry = load_registry(registry_path)
    check_datasets(recipe, registry, registry_path)
    recipe = with_registry(recipe, registry)
    parts = PartStore(out.with_name(f"{out.name}.parts"), registry_path.parent, exchange)
    parts.clear_unfinished()
    transcripts, handed = CtcVocabBuilder(recipe, registry), 0
    with scratch_folder(parts.root.parent, parts.root.name) as scratch:
        tokenizer = scratch / "tokenizer"
        save_tokenizer(recipe, registry, registry_path, tokenizer)
        with PartMaker(recipe, tokenizer, parts, workers, (machine, machines)) as maker:
            for opened in open_splits(registry_path, registry):
                units = transcripts.reads(opened.dataset, opened.split)
                for _, part in maker.split(opened, units=units):
                    parts.share(part)
                    handed += 1
                progress(f"prepare: {opened.dataset}/{opened.split}, {handed} shards handed over")
    return handed


def _write(
    recipe: Recipe,
    registry: Registry,
    path: Path,
    partial: Path,
    out: Path,
    digest: str,
    parts: PartStore,
    workers: int,
    progress: Say,
) -> PrepareLedger:
    entries = save_tokenizer(recipe, registry, path, partial / "tokenizer")
    progress(f"prepare: tokenizer of {entries} entries")
    transcripts = CtcVocabBuilder(recipe, registry)
    ledgers: list[SplitLedger] = []
    faults: list[str] = []
    with (
        (partial / "rejects.jsonl").open("w", encoding="utf-8") as rejects,
        PartMaker(recipe, partial / "tokenizer", parts, workers) as maker,
    ):
        for opened in open_splits(path, registry):
            dataset, split = opened.dataset, opened.split
            counting = Counting(dataset, split)
            meta: dict[str, object] = {
                "dataset": dataset,
                "split": split,
                "settings": media_settings(recipe, opened.audio).model_dump(mode="json"),
                "roots": portable_roots(
                    source_of(registry, dataset, split), path, out / dataset / split
                ),
            }
            bins = (
                recipe.model.audio_encoder.num_mel_bins if recipe.data.audio.store_features else 0
            )
            told = 0
            with IndexWriter(partial / dataset / split, meta, bins=bins) as writer:
                for rows, part in maker.split(opened, units=transcripts.reads(dataset, split)):
                    turned_down = part.rejects(rows)
                    counting.add_counts(part.info.counts, turned_down)
                    for reject in turned_down:
                        rejects.write(reject_line(dataset, split, named(reject, opened.path)))
                    writer.add(part.table, part.folder / FEATURES if bins else None)
                    transcripts.add(part.info.units)
                    if counting.records - told >= _PROGRESS_ROWS:
                        told = counting.records
                        progress(f"prepare: {dataset}/{split} {told} rows")
            ledgers.append(counting.close().model_copy(update={"digest": writer.digest}))
            faults += [fault] if (fault := counting.fault(recipe.data.max_reject_share)) else []
            progress(
                f"prepare: {dataset}/{split} {ledgers[-1].used} rows, {ledgers[-1].rejected} "
                f"rejected{leniencies_used(ledgers[-1])}"
            )
    if maker.found:
        progress(f"prepare: {maker.found} shards were done already, {maker.made} were not")
    if faults:
        kept = out.with_name(f"{out.name}.rejects.jsonl")
        # The rest of the folder is removed by whoever called this
        os.replace(partial / "rejects.jsonl", kept)
        raise DataError(
            "; ".join(faults[:3]),
            code="VT-DATA-015",
            where=str(path),
            remedy=f"all are listed in {kept}; correct the records, or allow a share with "
            "data.max_reject_share",
        )
    ctc_vocab = transcripts.build()
    ctc_vocab.save(partial / "ctc_vocab.json")
    progress(f"prepare: {len(ctc_vocab)} recogniser units ({ctc_vocab.kind})")
    ledger = PrepareLedger(digest=digest, splits=ledgers)
    ledger.save(partial / "ledger.json")
    datasets = {
        name: sorted(entry.split_names) for name, entry in sorted(registry.datasets.items())
    }
    meta_text = json.dumps(
        {
            "format": "vita-train/corpus/v1",
            "digest": digest,
            "datasets": datasets,
            "made_with": made_with(recipe, datasets),
            "tasks": registry.tasks,
            "ratios": {
                name: entry.ratio
                for name, entry in sorted(registry.datasets.items())
                if entry.ratio != 1
            },
            "sha256": _vocabularies(partial),
        },
        indent=1,
    )
    (partial / "meta.json").write_text(meta_text + "\n", encoding="utf-8")
    return ledger


def leniencies_used(ledger: SplitLedger) -> str:
    """Return how many rows needed which leniency, as the end of a line."""
    counts = ", ".join(f"{name} {count}" for name, count in ledger.lenient.items())
    return f"; lenient: {counts}" if counts else ""


def _vocabularies(corpus: Path) -> dict[str, str]:
    """Return the sha256 of the tokenizer's files and of the recogniser's units, by their paths in
    the corpus."""
    files = [
        corpus / "ctc_vocab.json",
        *sorted(path for path in (corpus / "tokenizer").iterdir() if path.is_file()),
    ]
    return {path.relative_to(corpus).as_posix(): sha256_file(path) for path in files}


def media_settings(recipe: Recipe, special: AudioLimits | None = None) -> MediaSettings:
    """Return the settings that samples are loaded with; where they once came from is none of
    them.

    Args:
        recipe: its data and model.
        special: of the dataset, if it is an audio special set.
    """
    audio = recipe.data.audio
    if special is not None and special.resampling is not None:
        audio = audio.model_copy(update={"resampling": special.resampling})
    model = recipe.model
    data = recipe.data.model_copy(update={"source": {}, "audio": audio})
    return MediaSettings(
        data=data,
        vision=model.vision,
        projector=model.projector,
        adapter=model.audio_adapter,
        mel_bins=model.audio_encoder.num_mel_bins,
    )


def _is_done(out: Path, digest: str) -> bool:
    try:
        # Whatever meta.json holds: a corpus that cannot be told is made again
        return bool(json.loads((out / "meta.json").read_text(encoding="utf-8"))["digest"] == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False
