"""Audio as people hear it, and files of which nobody could."""

from __future__ import annotations

import struct
import unicodedata
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from tests.helpers.media_zoo import SOUNDS, VIDEOS, steady, tone, write_audio, write_video
from vita_train.data.media import MediaError
from vita_train.data.media.audio import load_wave
from vita_train.data.media.measure import MeasureSettings, MediaFile, measure
from vita_train.data.media.whole import check_whole
from vita_train.recipe.audio import SubsamplingAdapterSpec
from vita_train.recipe.data import DataSpec

SETTINGS = MeasureSettings(DataSpec(), 32, SubsamplingAdapterSpec())


def refused(path: Path, **options: object) -> str:
    with pytest.raises(MediaError) as caught:
        load_wave(path, 16000, **options)  # type: ignore[arg-type]
    assert str(path) in caught.value.detail
    return caught.value.reason


def written(path: Path, samples: np.ndarray, subtype: str = "FLOAT", rate: int = 16000) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("channels", [2, 6])
@pytest.mark.parametrize("sounding", [0, 1])
def test_a_channel_that_alone_has_sound_is_taken_whole(
    tmp_path: Path, channels: int, sounding: int
) -> None:
    samples = np.zeros((16000, channels), np.float32)
    samples[:, sounding] = tone()
    path = written(tmp_path / "s.wav", samples)
    assert np.array_equal(load_wave(path, 16000), tone())
    if sounding:
        assert refused(path, channel="first") == "silent audio"


def test_channels_are_mixed_and_those_that_cancel_are_not(tmp_path: Path) -> None:
    other = np.roll(tone(), 4000)
    path = written(tmp_path / "s.wav", np.stack([tone(), other], 1))
    assert np.allclose(load_wave(path, 16000), (tone() + other) / 2, atol=1e-6)
    assert np.array_equal(load_wave(path, 16000, channel="first"), tone())
    inverse = written(tmp_path / "i.wav", np.stack([0.9 * tone(), -tone()], 1))
    assert np.array_equal(load_wave(inverse, 16000), -tone())


@pytest.mark.parametrize("suffix", [suffix for suffix in SOUNDS if suffix != "wma"])
def test_silence_is_refused_in_every_format(tmp_path: Path, suffix: str) -> None:
    assert refused(write_audio(tmp_path / f"s.{suffix}", 0 * tone())) == "silent audio"


def test_a_click_in_silence_is_silence(tmp_path: Path) -> None:
    wave = np.zeros(32000, np.float32)
    wave[8000:8080] = 0.5 * np.exp(-np.arange(80) / 20)
    assert refused(written(tmp_path / "s.wav", wave, "PCM_16")) == "silent audio"
    wave[:1600] = tone(0.1)
    assert len(load_wave(written(tmp_path / "s.wav", wave, "PCM_16"), 16000)) == 32000


@pytest.mark.parametrize("level", [0.0, 0.5, -1.0])
def test_a_constant_is_silence(tmp_path: Path, level: float) -> None:
    path = written(tmp_path / "s.wav", np.full((8000, 2), level, np.float32))
    assert refused(path) == "silent audio"


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        (1e30, "audio outside [-1, 1]"),
        (100.3, "audio outside [-1, 1]"),
        (np.inf, "unreadable audio"),
        (np.nan, "unreadable audio"),
        (3e38, "audio outside [-1, 1]"),
    ],
)
@pytest.mark.parametrize("rate", [8000, 16000])
def test_floats_far_outside_are_refused(
    tmp_path: Path, scale: float, reason: str, rate: int
) -> None:
    with np.errstate(all="ignore"):
        samples = (tone() / 0.3 * np.float32(scale)).astype(np.float32)
    assert refused(written(tmp_path / "s.wav", samples, rate=rate)) == reason


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_integers_written_as_floats_are_brought_to_scale(tmp_path: Path, bits: int) -> None:
    samples = np.rint(tone() * 2 ** (bits - 1)).astype(np.float32)
    wave = load_wave(written(tmp_path / "s.wav", samples), 16000)
    assert np.abs(wave - tone()).max() < 1e-4


def test_some_overshoot_is_left_and_clipping_is_refused(tmp_path: Path) -> None:
    loud = tone() / 0.3 * 1.5
    assert load_wave(written(tmp_path / "f.wav", loud), 16000).max() == pytest.approx(1.5, abs=0.01)
    clipped = np.clip(3 * loud, -1, 1)
    assert refused(written(tmp_path / "c.wav", clipped, "PCM_16")) == "clipped audio"
    assert len(load_wave(written(tmp_path / "o.wav", tone() / 0.3 * 0.999, "PCM_16"), 16000))


#: Formats whose files cannot tell that they were cut, or that zeros are none of theirs: see
#: media/whole.py.
MUTE, PLAIN = {"aac"}, {"aiff", "au", "caf", "w64", "wav"}


@pytest.mark.parametrize("suffix", sorted({*SOUNDS, *VIDEOS} - MUTE))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("rest", ["nothing", "zeros"])
def test_files_cut_short_are_refused(tmp_path: Path, suffix: str, share: float, rest: str) -> None:
    if rest == "zeros" and suffix in PLAIN:
        pytest.skip("may end in silence")
    path = tmp_path / f"f.{suffix}"
    if suffix in SOUNDS:
        write_audio(path, np.tile(tone(), 4))
    else:
        noise = np.random.default_rng(0).integers(0, 255, (20, 96, 96, 3), np.uint8)
        write_video(path, steady(20), pictures=list(noise))
    kind = "audio" if suffix in SOUNDS else "video"
    measure(MediaFile(kind, path), SETTINGS)  # type: ignore[arg-type]
    content = path.read_bytes()
    there = content[: int(len(content) * share) | 1]
    path.write_bytes(there + bytes(len(content) - len(there) if rest == "zeros" else 0))
    with pytest.raises(MediaError) as caught:
        measure(MediaFile(kind, path), SETTINGS)  # type: ignore[arg-type]
    assert caught.value.reason in (f"truncated {kind}", f"unreadable {kind}")


def unknown_length(path: Path, length: int) -> Path:
    """Overwrite the length of the samples in a WAV, AIFF or AU file."""
    content = bytearray(path.read_bytes())
    order = "<" if path.suffix == ".wav" else ">"
    place = 8 if path.suffix == ".au" else content.find(b"data" if order == "<" else b"SSND") + 4
    content[place : place + 4] = struct.pack(f"{order}I", length)
    if path.suffix != ".au":
        content[4:8] = struct.pack(f"{order}I", (length + 36) & 0xFFFFFFFF if length else 0)
    path.write_bytes(content)
    return path


UNKNOWN = [0x7F000000, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF]


@pytest.mark.parametrize(
    ("suffix", "length"),
    [
        *(("wav", length) for length in (0, 0x80000000, *UNKNOWN)),
        *(("aiff", length) for length in UNKNOWN),
        ("au", 0x7FFFFFFF),
        ("au", 0xFFFFFFFF),
    ],
)
def test_lengths_that_say_unknown_are_no_promise(tmp_path: Path, suffix: str, length: int) -> None:
    path = unknown_length(write_audio(tmp_path / f"s.{suffix}", tone()), length)
    assert len(load_wave(path, 16000)) == 16000


def test_lengths_that_are_promised_are_held_to(tmp_path: Path) -> None:
    path = unknown_length(write_audio(tmp_path / "s.wav", tone()), 100_000)
    with pytest.raises(MediaError, match="holds 32000 of 100000 bytes"):
        check_whole(path, "audio")


def header(rate: int, samples: bytes) -> bytes:
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(samples))
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
        + b"data"
        + struct.pack("<I", len(samples))
        + samples
    )


def test_what_a_header_claims_is_looked_at_before_decoding(tmp_path: Path) -> None:
    for rate in (0, 1, 2**31 - 1):
        (tmp_path / "s.wav").write_bytes(header(rate, np.ones(32000, "<i2").tobytes()))
        assert refused(tmp_path / "s.wav", max_seconds=60) == "unreadable audio"
    write_audio(tmp_path / "s.flac", tone())
    content = bytearray((tmp_path / "s.flac").read_bytes())
    content[21] |= 15
    content[22:26] = b"\xff" * 4  # 2^36 - 1 samples
    (tmp_path / "s.flac").write_bytes(content)
    assert refused(tmp_path / "s.flac", max_seconds=60) == "audio too long"
    for suffix in ("m4a", "ogg", "wav", "mka"):
        path = write_audio(tmp_path / f"long.{suffix}", np.tile(tone(), 5))
        assert refused(path, max_seconds=2) == "audio too long"


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "m4a"])
def test_titles_need_not_be_utf8(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    with av.open(str(path), "w", format="mp4" if suffix == "m4a" else None) as container:
        container.metadata["title"] = "cafXYZ"
        if suffix == "m4a":
            stream = container.add_stream("aac", rate=16000, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone()[None], format="fltp", layout="mono")
            frame.rate = 16000
        else:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            frame = av.VideoFrame(48, 32, "yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"cafXYZ", b"caf\xe9\xff\xfe"))
    assert measure(MediaFile("audio" if suffix == "m4a" else "video", path), SETTINGS)


def test_names_are_found_in_either_normal_form(tmp_path: Path) -> None:
    for stored, asked in (("NFC", "NFD"), ("NFD", "NFC")):
        folder = tmp_path / stored
        (folder / unicodedata.normalize(stored, "é")).mkdir(parents=True)
        write_audio(folder / unicodedata.normalize(stored, "é/ü.wav"), tone())
        assert len(load_wave(folder / unicodedata.normalize(asked, "é/ü.wav"), 16000)) == 16000
