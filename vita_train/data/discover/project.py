"""Registry and recipe for what a folder holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vita_train.data.discover.look import Findings
from vita_train.data.sources.files import write_records
from vita_train.errors import UserError
from vita_train.recipe.yaml_tree import dump_yaml

REGISTRY, RECIPE = "registry.yaml", "recipe.yaml"
_MODEL = """\
# Written by vita-train data init. Small models, trained from nothing, to see that the data are
# understood. For models that generalise, name pretrained weights, model.llm.source and
# model.vision.source: docs/how-to/bring-your-own-llm.md.
name: {name}
tokenizer: {{vocab_size: 512}}
model:
  dtype: float32
  llm: {{vocab_size: 512, hidden_size: 96, num_layers: 3, num_heads: 3, num_kv_heads: 3,
        intermediate_size: 256, max_positions: 4096, rope_theta: 10000.0, tie_embeddings: true}}
  vision: {{image_size: 64, patch_size: 8, hidden_size: 64, num_layers: 2, num_heads: 2,
           intermediate_size: 128, drop_path: 0.0}}
  audio_encoder: {{width: 96, conv_channels: 16, num_layers: 2, num_heads: 2,
                  intermediate_size: 192, conv_kernel: 15, relative_shift: true,
                  dynamic_chunks: false, max_positions: 3000}}
  ctc_head: {{vocab: char}}
  audio_adapter: {{hidden_size: 96}}
data:
  source:
    mine: {{kind: records, registry: {registry}}}
  image: {{max_tiles: 1}}
launch: {{nproc: 1, threads: 1}}
"""


#: Modules that images pass through.
_SEES = ("vision", "projector")


def write_project(findings: Findings, name: str, out: Path) -> list[Path]:
    """Write registry, recipe and the records made of texts; returns the files.

    Args:
        findings: what the folder holds.
        name: of the recipe; empty makes one of the name of ``out``.
        out: where they go.

    Raises:
        UserError: one of them is there already.
    """
    files = [out / REGISTRY, out / RECIPE, *(out / file for file in findings.written)]
    if there := [path for path in files if path.exists()]:
        raise UserError(
            "is already there",
            code="VT-USE-031",
            where=str(there[0]),
            remedy="remove it, or give another folder with --out",
        )
    out.mkdir(parents=True, exist_ok=True)
    for file, rows in findings.written.items():
        write_records(out / file, rows)
    head = (
        "# Written by vita-train data init. Tasks and splits are guesses: look them over "
        "(docs/your-data.md).\n"
    )
    files[0].write_text(
        head + dump_yaml(findings.registry.model_dump(mode="json")), encoding="utf-8"
    )
    files[1].write_text(_recipe(findings, name or _plain(out)), encoding="utf-8")
    return files


#: Modules that images pass through.
_SEES = ("vision", "projector")


def _recipe(findings: Findings, name: str) -> str:
    """Return the recipe: a recogniser for transcripts, the language model with images, then all
    together."""
    kinds, trained = (
        findings.media,
        [dataset for dataset, number in sorted(findings.records.items()) if number],
    )
    heard = [dataset for dataset in trained if "audio" in kinds[dataset]]
    seen = [dataset for dataset in trained if kinds[dataset] & {"image", "video"}]
    transcripts = [dataset for dataset in heard if findings.registry.tasks[dataset] == "asr"]
    silent = [dataset for dataset in trained if dataset not in heard]
    rows = {"global_batch_size": 4, "seq_len": 1024}
    stages: dict[str, Any] = {}
    if silent:
        parts = ["llm", *(_SEES if {*seen} & {*silent} else ())]
        stages["learn"] = {
            "objective": "next_token",
            "after": [],
            "data": dict.fromkeys(silent, 1.0),
            "trainable": dict.fromkeys(parts, 2e-3),
            "steps": 200,
            "batch": rows,
        }
    if transcripts:
        stages["recognise"] = {
            "objective": "ctc",
            "after": [],
            "data": dict.fromkeys(transcripts, 1.0),
            "trainable": {"audio_encoder": 2e-3, "ctc_head": 2e-3},
            "steps": 400,
            "batch": {"global_batch_size": 8},
        }
    if heard:
        encoder = {} if transcripts else {"audio_encoder": 2e-3}
        # Images that no stage before saw stand in the same files as recordings.
        unseen = {*seen} & {*heard} and not {*seen} & {*silent}
        sees = dict.fromkeys(_SEES, 2e-3) if unseen else {}
        stages["listen"] = {
            "objective": "next_token",
            "after": list(stages),
            "data": dict.fromkeys(trained, 1.0),
            "trainable": {"llm": 1e-3, "audio_adapter": 2e-3, **encoder, **sees},
            "steps": 200,
            "batch": rows,
        }
    return _MODEL.format(name=name, registry=REGISTRY) + dump_yaml({"stages": stages})


def _plain(folder: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("._-") or "mine"
