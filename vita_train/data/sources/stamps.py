"""Real media: images, captions and recorded descriptions of the Debian package
tuxpaint-stamps-default.

Beside an image ``goat.png`` lie ``goat.txt`` (first line English, then ``fr.utf8=...`` lines) and
recordings
``goat_desc_fr.ogg`` (without a language: English). An image, its caption and its recordings become
records of ``caption``, ``asr`` and ``instruct``. Whatever is not used is listed with its reason in
``ledger.json``.

Images are split by their bytes, 80 : 8 : 12. A caption that several images share ("A flower.") may
stand in
training and test, as it would for any collection of images. A recording follows its image, except
that words spoken or written in training are never a test: such recordings all go to training.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from PIL import Image

from vita_train.console import progress, say
from vita_train.data.sources.debian import unpack_package
from vita_train.data.sources.files import write_records
from vita_train.data.sources.registry import Dataset, Registry, SplitSource
from vita_train.errors import DataError
from vita_train.recipe.data import StampsSource

PACKAGE = "tuxpaint-stamps-default"
LEDGER = "ledger.json"
_MEDIA, _RECORDS = "media", "records"
_SAMPLE_RATE = 16000
_LARGEST_SIDE = 448
_DESCRIBE, _TRANSCRIBE, _REPEAT = "Describe the picture.", "Transcribe the speech.", "Repeat:"
_RECORDING = re.compile(r"(?P<stamp>.+?)_desc(?:_(?P<language>[A-Za-z]+(?:_[A-Z]+)?))?")
_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Stamp:
    """A thing with its captions, and mostly an image."""

    name: str
    """Path below the stamps folder, without its ending."""
    captions: dict[str, str]
    """Language to caption; English is ``en``."""
    split: str


@dataclass(frozen=True)
class Recording:
    """A spoken description."""

    file: Path
    name: str
    language: str
    text: str
    """The caption in its language, lower case, without punctuation."""
    split: str


@dataclass
class StampsReport:
    """What was found, used and left out. Every file found stands in exactly one of the two."""

    used: Counter[str] = field(default_factory=Counter)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, kind: str, name: str, reason: str) -> None:
        """Note a file that is not used."""
        self.skipped.append({"kind": kind, "file": name, "reason": reason})

    def write(self, path: Path) -> None:
        """Write the ledger as JSON: counts first, then every skipped file."""
        reasons = Counter(f"{entry['kind']}: {entry['reason']}" for entry in self.skipped)
        found = Counter(self.used)
        found.update(entry["kind"] for entry in self.skipped)
        body = {
            "found": found,
            "used": self.used,
            "reasons": reasons,
            "skipped": sorted(self.skipped, key=lambda entry: entry["file"]),
        }
        path.write_text(
            json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def build_stamps(source: StampsSource, out: Path, *, seed: int, workers: int) -> Registry:
    """Write records, media and ledger below ``out``; the caller writes the registry.

    Raises:
        UserError: the package cannot be fetched or unpacked.
        DataError: it holds no usable stamp.
    """
    with tempfile.TemporaryDirectory(dir=out, prefix="package-") as scratch:
        given = Path(source.package) if source.package else None
        files = unpack_package(PACKAGE, given, Path(scratch))
        root = next(path for path in (files / "usr/share/tuxpaint/stamps", files) if path.is_dir())
        licence = files / "usr/share/doc" / PACKAGE / "copyright"
        if licence.is_file():
            shutil.copyfile(licence, out / "COPYRIGHT")
        report = StampsReport()
        names = sorted(
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.is_file() and not path.is_symlink()
        )
        stamps = _read_stamps(root, names, seed)
        with_image = _convert_images(root, names, stamps, source.language, out / _MEDIA, report)
        recordings = _keep_apart(
            _find_recordings(root, names, stamps, source, report), with_image, source.language
        )
        spoken = _convert_recordings(recordings, out / _MEDIA, report, workers)
    if not with_image:
        raise DataError(
            f"no image with a caption in language {source.language!r}",
            code="VT-DATA-030",
            where=source.package or PACKAGE,
            remedy="name the package tuxpaint-stamps-default, or another language",
        )
    report.write(out / LEDGER)
    say(
        f"stamps: {len(with_image)} images, {len(spoken)} recordings, {len(report.skipped)} files "
        f"not used ({LEDGER})"
    )
    return _write_datasets(with_image, spoken, source.language, out)


def read_captions(text: str) -> dict[str, str]:
    """Language to caption of a stamp's text file; ``en`` is the first line."""
    first, *others = text.splitlines() or [""]
    captions = {"en": first.strip()}
    for line in others:
        language, mark, caption = line.partition(".utf8=")
        if mark and caption.strip():
            captions.setdefault(language.strip(), caption.strip())
    return {language: caption for language, caption in captions.items() if caption}


def normalise_transcript(text: str) -> str:
    """Lower case, letters, digits and apostrophes only, single spaces; any script."""
    plain = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    kept = "".join(
        mark if mark == "'" or unicodedata.category(mark)[0] in "LMN" else " " for mark in plain
    )
    return " ".join(word.strip("'") for word in kept.split() if word.strip("'"))


def _read_stamps(root: Path, names: list[str], seed: int) -> dict[str, Stamp]:
    """Every stamp that has a text file, with an image or without."""
    stamps = {}
    for stem in [name.removesuffix(".txt") for name in names if name.endswith(".txt")]:
        captions = read_captions(
            (root / f"{stem}.txt").read_text(encoding="utf-8", errors="replace")
        )
        image = root / f"{stem}.png"
        # By bytes, so that the same image under two names is on one side.
        key = hashlib.sha256(image.read_bytes() if image.is_file() else stem.encode()).hexdigest()
        stamps[stem] = Stamp(stem, captions, _split_of(seed, key))
    return stamps


def _convert_images(
    root: Path,
    names: list[str],
    stamps: dict[str, Stamp],
    language: str,
    media: Path,
    report: StampsReport,
) -> list[Stamp]:
    """Write the images; returns the stamps of those in use."""
    used = []
    for name in [name for name in names if name.lower().endswith((".png", ".svg"))]:
        stem = name[:-4]
        stamp = stamps.get(stem)
        if name.lower().endswith(".svg"):
            report.skip(
                "picture",
                name,
                "SVG, drawn as PNG" if f"{stem}.png" in names else "SVG without a PNG",
            )
        elif stamp is None:
            report.skip("picture", name, "no caption")
        elif language not in stamp.captions:
            report.skip("picture", name, "no caption in this language")
        else:
            try:
                jpeg = _to_jpeg(root / name)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                report.skip("picture", name, f"not readable: {type(error).__name__}")
                continue
            _write(media / f"{stem}.jpg", jpeg)
            report.used["picture"] += 1
            used.append(stamp)
    return used


def _to_jpeg(path: Path) -> bytes:
    """Image on white, longest side at most 448 pixels, as JPEG."""
    with Image.open(path) as image:
        picture_image = image.convert("RGBA")
    canvas = Image.new("RGBA", picture_image.size, "white")
    canvas.alpha_composite(picture_image)
    flat = canvas.convert("RGB")
    flat.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    out = BytesIO()
    flat.save(out, "JPEG", quality=92)
    return out.getvalue()


def _find_recordings(
    root: Path,
    names: list[str],
    stamps: dict[str, Stamp],
    source: StampsSource,
    report: StampsReport,
) -> list[Recording]:
    found = []
    for name in [name for name in names if name.endswith((".ogg", ".wav"))]:
        match = _RECORDING.fullmatch(name.rpartition(".")[0])
        if match is None:
            report.skip("sound", name, "sound effect, not a description")
            continue
        language, stamp = match["language"] or "en", stamps.get(match["stamp"])
        if source.recordings and language not in source.recordings:
            report.skip("sound", name, "language not asked for")
        elif stamp is None:
            report.skip("sound", name, "no caption: no stamp of that name")
        elif not (text := normalise_transcript(stamp.captions.get(language, ""))):
            report.skip("sound", name, "no caption in its language")
        else:
            found.append(
                Recording(root / name, name.rpartition(".")[0], language, text, stamp.split)
            )
    return found


def _keep_apart(found: list[Recording], stamps: Iterable[Stamp], language: str) -> list[Recording]:
    """Move recordings whose words training speaks or writes to training, and those that dev and
    test share to dev."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for recording in found:
        splits[recording.text].add(recording.split)
    for stamp in stamps:
        splits[normalise_transcript(stamp.captions[language])].add(stamp.split)
    first = {text: min(its, key=_SPLITS.index) for text, its in splits.items()}
    return [
        Recording(each.file, each.name, each.language, each.text, first[each.text])
        for each in found
    ]


def _convert_recordings(
    recordings: list[Recording], media: Path, report: StampsReport, workers: int
) -> list[Recording]:
    used = []
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(
            lambda recording: _to_wav(recording.file, media / f"{recording.name}.wav"), recordings
        )
        for recording, reason in zip(
            recordings, progress(done, len(recordings), "converting recordings"), strict=True
        ):
            if reason:
                report.skip("sound", f"{recording.name}{recording.file.suffix}", reason)
            else:
                report.used["sound"] += 1
                used.append(recording)
    return used


def _to_wav(source: Path, target: Path) -> str:
    """Write mono 16 kHz PCM16; returns the reason when the recording cannot be used."""
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        return f"not readable: {type(error).__name__}"
    wave = soxr.resample(samples.mean(axis=1), rate, _SAMPLE_RATE)
    if not np.abs(wave).max(initial=0.0) > 1e-3:
        return "silent"
    data = BytesIO()
    soundfile.write(
        data,
        np.round(wave.clip(-1, 1) * 32767).astype(np.int16),
        _SAMPLE_RATE,
        subtype="PCM_16",
        format="WAV",
    )
    _write(target, data.getvalue())
    return ""


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_datasets(
    stamps: list[Stamp], recordings: list[Recording], language: str, out: Path
) -> Registry:
    rows: defaultdict[str, defaultdict[str, list[dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )

    def add(dataset: str, split: str, name: str, human: str, answer: str, **media: Any) -> None:
        turns = [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]
        rows[dataset][split].append({"id": f"{dataset}-{name}", **media, "conversations": turns})

    for stamp in stamps:
        caption = stamp.captions[language]
        add(
            "caption",
            stamp.split,
            stamp.name,
            f"<image>\n{_DESCRIBE}",
            caption,
            set="pictures",
            image=f"{stamp.name}.jpg",
        )
        add("instruct", stamp.split, f"describe-{stamp.name}", f"{caption}\n{_DESCRIBE}", caption)
        add("instruct", stamp.split, f"repeat-{stamp.name}", f"{_REPEAT} {caption}", caption)
    for each in recordings:
        add(
            "asr",
            each.split,
            each.name,
            f"<audio>\n{_TRANSCRIBE}",
            each.text,
            audio=[f"{each.name}.wav"],
        )
        add(
            "instruct",
            each.split,
            f"transcribe-{each.name}",
            f"{each.text}\n{_TRANSCRIBE}",
            each.text,
        )
    roots = {"caption": {"pictures": _MEDIA}, "asr": {"audio": _MEDIA}, "instruct": {}}
    datasets: dict[str, dict[str, SplitSource]] = defaultdict(dict)
    for dataset, splits in rows.items():
        for split, records in splits.items():
            path = f"{_RECORDS}/{dataset}.{split}.json"
            write_records(out / path, records)
            datasets[dataset][split] = SplitSource(records=path, roots=roots[dataset])
    # Each is called after its task.
    return Registry(
        datasets={name: Dataset(task=name, splits=splits) for name, splits in datasets.items()}
    )


def _split_of(seed: int, digest: str) -> str:
    share = int(hashlib.sha256(f"{seed}/{digest}".encode()).hexdigest()[:12], 16) / 16**12
    return "test" if share < 0.12 else "dev" if share < 0.2 else "train"
