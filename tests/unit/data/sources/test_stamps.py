"""The stamps source on a small package of the same layout, and on the real one where a .deb is
given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.helpers.errors import raises_code
from vita_train.data.sources.fetch import fetch
from vita_train.data.sources.reading import Row, read_records
from vita_train.data.sources.registry import load_registry, resolve
from vita_train.data.sources.stamps import normalise_transcript, read_captions
from vita_train.errors import DataError, UserError
from vita_train.recipe.sources import StampsSource

REAL = os.environ.get("VITA_STAMPS_DEB", "")


def add_stamp(root: Path, name: str, captions: str, *languages: str) -> None:
    """An image with transparent corners, its captions and its recordings (44.1 kHz stereo
    Vorbis)."""
    path = root / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    level = sum(name.encode()) % 200
    image = Image.new("RGBA", (600, 300), (255, 0, 0, 0))
    image.paste((0, level, 255, 255), (100, 50, 500, 250))
    image.save(path)
    path.with_suffix(".txt").write_text(captions, encoding="utf-8")
    for language in languages:
        suffix = "_desc" if language == "en" else f"_desc_{language}"
        time = np.arange(44100) / 44100
        wave = 0.3 * np.sin(2 * np.pi * (200 + level) * time)
        soundfile.write(
            root / f"{name}{suffix}.ogg",
            np.stack([wave, wave], 1),
            44100,
            format="OGG",
            subtype="VORBIS",
        )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a package with forty good stamps and one of each kind of trouble."""
    files = tmp_path_factory.mktemp("package")
    root = files / "usr/share/tuxpaint/stamps"
    for number in range(40):
        add_stamp(
            root,
            f"animals/beast{number}",
            f"A “beast” {number}.\nfr.utf8=Une bête n°{number} !\n",
            "fr",
        )
    add_stamp(root, "animals/goat", "A goat.\nfr.utf8=Une chèvre.\n", "en", "fr", "ru")
    shutil.copy(root / "animals/goat_desc.ogg", root / "animals/goat.ogg")
    (root / "animals/broken.png").write_bytes(b"\x89PNG broken")
    (root / "animals/broken.txt").write_text("A broken thing.")
    shutil.copy(root / "animals/goat.png", root / "animals/goat_mirror.png")
    (root / "animals/drawn.svg").write_text("<svg/>")
    (root / "animals/drawn.txt").write_text("A drawing.\nfr.utf8=Un dessin.\n")
    shutil.copy(root / "animals/goat_desc_fr.ogg", root / "animals/drawn_desc_fr.ogg")
    (root / "animals/beast1_desc_en.ogg").write_bytes(b"not sound")
    soundfile.write(
        root / "animals/beast2_desc.ogg", np.zeros(8000), 16000, format="OGG", subtype="VORBIS"
    )
    (root / "animals/leak.png").symlink_to("/etc/hostname")
    (files / "usr/share/doc/tuxpaint-stamps-default").mkdir(parents=True)
    (files / "usr/share/doc/tuxpaint-stamps-default/copyright").write_text("GPL-2+")
    return files


@pytest.fixture(scope="module")
def stamps(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fetched package."""
    out = tmp_path_factory.mktemp("stamps") / "raw"
    fetch(StampsSource(package=str(package)), out, seed=0, workers=2)
    return out


def rows(out: Path, dataset: str) -> dict[str, list[Row]]:
    """Checked rows of each split of a dataset."""
    base = out / "registry.json"
    found = {}
    for split, source in load_registry(base).datasets[dataset].splits.items():
        roots = {key: resolve(base, root) for key, root in source.roots.items()}
        found[split] = list(read_records(resolve(base, source.records), roots))
        for row in found[split]:
            assert isinstance(row, Row), row
            for ref in (*row.images, *row.audios):
                assert ref.path(roots).is_file()
    return found


def test_ledger_adds_up_and_names_reasons(package: Path, stamps: Path) -> None:
    ledger = json.loads((stamps / "ledger.json").read_text(encoding="utf-8"))
    files = [path for path in package.rglob("*") if path.is_file() and not path.is_symlink()]
    endings = Counter(
        "picture" if path.suffix in (".png", ".svg") else "sound"
        for path in files
        if path.suffix in (".png", ".svg", ".ogg")
    )
    assert ledger["found"] == endings
    assert sum(ledger["reasons"].values()) == len(ledger["skipped"])
    assert ledger["used"] == {"picture": 41, "sound": 43}
    assert ledger["reasons"] == {
        "picture: not readable: UnidentifiedImageError": 1,
        "picture: no caption": 1,
        "picture: SVG without a PNG": 1,
        "sound: sound effect, not a description": 1,
        "sound: no caption in its language": 1,
        "sound: not readable: LibsndfileError": 1,
        "sound: silent": 1,
    }
    assert (stamps / "COPYRIGHT").read_text() == "GPL-2+"


def test_records_hold_captions_and_transcripts(stamps: Path) -> None:
    captions = rows(stamps, "caption")
    assert set(captions) == {"train", "dev", "test"}
    texts = {
        row.id: row.record.conversations[1].value for split in captions.values() for row in split
    }
    assert len(texts) == 41
    assert texts["caption-animals/goat"] == "A goat."
    spoken = {
        row.id: row.record.conversations[1].value
        for split in rows(stamps, "asr").values()
        for row in split
    }
    assert spoken["asr-animals/goat_desc_fr"] == "une chèvre"
    assert spoken["asr-animals/goat_desc"] == "a goat"
    assert spoken["asr-animals/beast7_desc_fr"] == "une bête n 7"
    assert spoken["asr-animals/drawn_desc_fr"] == "un dessin"


def test_media_are_flat_jpeg_and_mono_wav(stamps: Path) -> None:
    with Image.open(stamps / "media/animals/goat.jpg") as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == (448, 224)
        assert min(image.getpixel((2, 2))) > 245, "transparent corners become white"
    info = soundfile.info(stamps / "media/animals/goat_desc_fr.wav")
    assert (info.samplerate, info.channels, info.subtype, round(info.duration, 1)) == (
        16000,
        1,
        "PCM_16",
        1.0,
    )


def test_no_held_out_transcript_is_trained_on(stamps: Path) -> None:
    spoken = {
        split: {row.record.conversations[1].value for row in its}
        for split, its in rows(stamps, "asr").items()
    }
    written = {
        normalise_transcript(row.record.conversations[1].value)
        for row in rows(stamps, "caption")["train"]
    }
    assert not (spoken["train"] | written) & (spoken["dev"] | spoken["test"])
    assert not spoken["dev"] & spoken["test"]


def test_same_seed_same_bytes_and_language_choice(
    package: Path, stamps: Path, tmp_path: Path
) -> None:
    fetch(StampsSource(package=str(package)), tmp_path / "again", seed=0, workers=1)
    for path in sorted(stamps.rglob("*")):
        if path.is_file():
            assert (
                tmp_path / "again" / path.relative_to(stamps)
            ).read_bytes() == path.read_bytes(), path
    fetch(
        StampsSource(package=str(package), language="fr", recordings=("en",)),
        tmp_path / "french",
        seed=0,
    )
    captions = [row for split in rows(tmp_path / "french", "caption").values() for row in split]
    assert "Une chèvre." in {row.record.conversations[1].value for row in captions}
    assert sum(len(split) for split in rows(tmp_path / "french", "asr").values()) == 1


def test_deb_is_unpacked(package: Path, stamps: Path, tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb on this machine")
    control = tmp_path / "tree/DEBIAN/control"
    shutil.copytree(package, tmp_path / "tree", symlinks=True)
    control.parent.mkdir()
    control.write_text(
        "Package: tuxpaint-stamps-default\nVersion: 1\nArchitecture: all\n"
        "Maintainer: x <x@example.org>\nDescription: test\n"
    )
    subprocess.run(
        ["dpkg-deb", "-b", str(tmp_path / "tree"), str(tmp_path / "stamps.deb")],
        check=True,
        capture_output=True,
    )
    fetch(StampsSource(package=str(tmp_path / "stamps.deb")), tmp_path / "out", seed=0)
    assert (tmp_path / "out/records/caption.train.json").read_bytes() == (
        stamps / "records/caption.train.json"
    ).read_bytes()
    assert not list((tmp_path / "out").glob("package-*"))


def test_refusals_are_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises_code(UserError, "VT-USE-032"):
        fetch(StampsSource(package=str(tmp_path / "no.deb")), tmp_path / "a", seed=0)
    (tmp_path / "empty").mkdir()
    with raises_code(DataError, "VT-DATA-030"):
        fetch(StampsSource(package=str(tmp_path / "empty")), tmp_path / "b", seed=0)
    (tmp_path / "bad.deb").write_bytes(b"no package")
    monkeypatch.setenv("PATH", str(tmp_path))
    with raises_code(UserError, "VT-USE-033", "dpkg-deb"):
        fetch(StampsSource(package=str(tmp_path / "bad.deb")), tmp_path / "c", seed=0)
    with raises_code(UserError, "VT-USE-033", "apt-get"):
        fetch(StampsSource(), tmp_path / "d", seed=0)
    assert not list(tmp_path.glob("*/registry.json"))


def test_caption_files_and_transcripts() -> None:
    text = (
        "A goat.\nde.utf8=Eine Ziege.\nde.utf8=Zweite.\npt_BR.utf8=Uma cabra.\nga.utf8=\nnonsense\n"
    )
    assert read_captions(text) == {"en": "A goat.", "de": "Eine Ziege.", "pt_BR": "Uma cabra."}
    assert read_captions("") == {}
    assert (
        normalise_transcript("A “Stop” sign. Go when it’s your turn!")
        == "a stop sign go when it's your turn"
    )
    assert normalise_transcript("Козёл — 'яркий'.") == "козёл яркий"


@pytest.mark.skipif(
    not Path(REAL).is_file() or not REAL, reason="VITA_STAMPS_DEB names no package file"
)
def test_the_real_package(tmp_path: Path) -> None:
    fetch(StampsSource(package=REAL, recordings=("en",)), tmp_path / "out", seed=0)
    ledger = json.loads((tmp_path / "out/ledger.json").read_text(encoding="utf-8"))
    assert ledger["used"]["picture"] > 700
    assert ledger["used"]["sound"] > 50
