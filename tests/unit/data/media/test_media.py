"""Images, videos and audio: counts from the reference tables, features against Kaldi, faults with
reasons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.helpers.data_world import audio_file, image_file, video_file
from vita_train.data.media import MediaError
from vita_train.data.media.audio import (
    check_length,
    fbank,
    frames_of,
    load_wave,
    resampled,
    resampled_length,
)
from vita_train.data.media.image import (
    choose_grid,
    count_tiles,
    cut_tiles,
    grids,
    normalise,
    open_image,
    to_square,
)
from vita_train.data.media.video import frame_indices, load_frames, probe_video
from vita_train.recipe.audio import SubsamplingAdapterSpec
from vita_train.recipe.data import AudioSpec, DataSpec, ImageSpec, VideoSpec
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.towers.internvit import InternVitSpec

# Width, height, columns, rows, tiles, tokens at 448 pixels and 1 to 12 tiles.
TILING = [
    (448, 448, 1, 1, 1, 256),
    (224, 224, 1, 1, 1, 256),
    (336, 672, 1, 2, 3, 768),
    (900, 450, 2, 1, 3, 768),
    (1500, 500, 3, 1, 4, 1024),
    (640, 427, 3, 2, 7, 1792),
    (500, 333, 3, 2, 7, 1792),
    (1280, 720, 4, 2, 9, 2304),
    (1920, 1080, 4, 2, 9, 2304),
    (3840, 2160, 4, 2, 9, 2304),
    (720, 1280, 2, 4, 9, 2304),
    (1024, 1024, 3, 3, 10, 2560),
    (4000, 400, 10, 1, 11, 2816),
    (640, 480, 4, 3, 13, 3328),
    (800, 600, 4, 3, 13, 3328),
    (2000, 1500, 4, 3, 13, 3328),
]


@pytest.mark.parametrize(("width", "height", "columns", "rows", "tiles", "tokens"), TILING)
def test_tiling_table(
    width: int, height: int, columns: int, rows: int, tiles: int, tokens: int
) -> None:
    assert choose_grid(width, height, 1, 12, 448) == (columns, rows)
    assert count_tiles(width, height, ImageSpec(), 448) == tiles
    assert tiles * ModelSpec().tokens_per_tile == tokens


def test_grids() -> None:
    assert len(grids(1, 12)) == 35
    assert count_tiles(1280, 720, ImageSpec(thumbnail=False), 448) == 8
    assert count_tiles(1280, 720, ImageSpec(), 448, tiled=False) == 1
    assert count_tiles(448, 448, ImageSpec(min_tiles=2), 448) == 5  # 2 x 2 and the whole


def test_tiles_are_cut_row_by_row_with_the_whole_picture_last() -> None:
    colours = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    image = Image.fromarray(np.repeat(np.repeat(colours, 64, 0), 64, 1)[..., None].repeat(3, 2))
    tiles = cut_tiles(image, ImageSpec(), 64)
    assert tiles.shape == (7, 64, 64, 3)
    assert tiles[:6, 32, 32, 0].tolist() == colours.ravel().tolist()
    assert np.abs(tiles[6, [16, 48]][:, [10, 32, 53], 0].astype(int) - colours).max() < 3


@pytest.mark.parametrize(
    ("how", "corner", "middle"), [("squash", 200, 50), ("pad", 124, 50), ("crop", 50, 50)]
)
def test_single_tiles(how: str, corner: int, middle: int) -> None:
    pixels = np.full((32, 96, 3), 50, np.uint8)
    pixels[:, :16] = 200
    square = np.asarray(to_square(Image.fromarray(pixels), 32, how))
    assert square.shape == (32, 32, 3)
    assert square[0, 0, 0] == corner
    assert square[16, 16, 0] == middle


def test_normalisation_takes_mean_and_deviation_out() -> None:
    vision = InternVitSpec()
    tiles = np.zeros((2, 4, 4, 3), np.uint8)
    tiles[1] = 255
    values = normalise(tiles, vision)
    assert values.shape == (2, 3, 4, 4)
    assert values[0, :, 0, 0].tolist() == pytest.approx(
        [-m / s for m, s in zip(vision.mean, vision.std, strict=True)]
    )
    assert values[1, 0, 0, 0].item() == pytest.approx((1 - vision.mean[0]) / vision.std[0])


def test_transparent_pictures_stand_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_frames_follow_rate_and_bounds() -> None:
    spec = VideoSpec()
    assert frame_indices(200, 25, spec) == list(range(0, 200, 25))
    long = frame_indices(25 * 60, 25, spec)
    assert len(long) == 16
    assert (long[0], long[-1]) == (0, 59 * 25)
    assert frame_indices(30, 25, spec) == [0, 9, 19, 29]
    assert frame_indices(2, 25, spec) == [0, 0, 0, 1]
    assert frame_indices(1, 25, spec) == [0] * 4
    assert frame_indices(8, 0.2, spec) == list(range(8))  # the native rate is under half the target


@pytest.mark.parametrize("total", [1, 2, 24, 26, 30, 51, 75, 99, 100, 101, 400, 2000])
def test_short_clips_repeat_their_sampled_frames_as_published(total: int) -> None:
    """Sampled at the rate; of fewer than four, every place of four between the first and the last
    takes the one at or before it."""
    sampled = [place for place in range(total) if place % 25 == 0]
    wanted = sampled
    if len(sampled) < 4:
        wanted = [sampled[step * (len(sampled) - 1) // 3] for step in range(4)]
    if len(sampled) > 16:
        wanted = [sampled[step * (len(sampled) - 1) // 15] for step in range(16)]
    assert frame_indices(total, 25, VideoSpec(short="published")) == wanted
    if len(sampled) >= 4:
        assert frame_indices(total, 25, VideoSpec()) == wanted


def test_videos_are_decoded_where_asked(tmp_path: Path) -> None:
    path = video_file(tmp_path / "f.mp4", frames=9, fps=3)
    assert probe_video(path) == (9, 3.0, 64, 48, ())
    frames = load_frames(path, [0, 3, 3, 8], DataSpec(), 32)
    assert np.abs(frames.mean((1, 2, 3)) - [10, 70, 70, 170]).max() < 6


@pytest.mark.parametrize(
    ("seconds", "frames", "tokens"),
    [
        (1, 98, 12),
        (2, 198, 24),
        (5, 498, 62),
        (10, 998, 124),
        (30, 2998, 374),
        (60, 5998, 749),
        (3.54, 352, 44),
        (0.085, 7, 1),
        (0.075, 6, 0),
        (0.025, 1, 0),
        (0.02, 0, 0),
    ],
)
def test_sound_length_table(seconds: float, frames: int, tokens: int) -> None:
    assert frames_of(round(seconds * 16000)) == frames
    assert SubsamplingAdapterSpec().tokens_of(frames) == tokens


@pytest.mark.parametrize("samples", [400, 7777, 24000])
def test_fbank_agrees_with_kaldi(samples: int) -> None:
    generator = np.random.default_rng(samples)
    wave = (
        0.2 * np.sin(np.arange(samples) * 0.07) + 0.01 * generator.standard_normal(samples)
    ).astype(np.float32)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    options.energy_floor = 0
    kaldi = kaldi_native_fbank.OnlineFbank(options)
    kaldi.accept_waveform(16000, (wave * 32768).tolist())
    kaldi.input_finished()
    expected = np.stack([kaldi.get_frame(place) for place in range(kaldi.num_frames_ready)])
    found = fbank(wave).numpy()
    assert found.shape == expected.shape == (frames_of(samples), 80)
    assert np.abs(found - expected).max() <= 1e-2


@pytest.mark.parametrize(("native", "rate"), [(8000, 16000), (24000, 16000), (22050, 16000)])
def test_resampling_is_a_windowed_sinc(native: int, rate: int) -> None:
    """Low-pass at 0.99 of the lower half rate, six zero crossings to either side, a Hann window
    squared (cos²), as the public features had it."""
    wave = np.random.default_rng(1).standard_normal(900).astype(np.float32)
    made = resampled(wave, native, rate)
    assert len(made) == resampled_length(len(wave), native, rate) == -(-900 * rate // native)
    cutoff = 0.99 * min(native, rate) / 2
    place = np.arange(len(wave)) / native
    for index in (0, 17, len(made) // 2, len(made) - 1):
        distance = 2 * cutoff * (index / rate - place)
        near = np.abs(distance) < 6
        window = np.cos(np.pi * distance / 12) ** 2 * near
        expected = (wave * np.sinc(distance) * window).sum() * 2 * cutoff / native
        assert made[index] == pytest.approx(expected, abs=1e-4)
    by_soxr = resampled(wave, native, rate, "soxr")
    assert len(by_soxr) == resampled_length(len(wave), native, rate, "soxr")
    assert not np.allclose(by_soxr[: len(made)], made[: len(by_soxr)], atol=1e-3)


def test_silence_and_very_short_sound_have_features() -> None:
    assert np.isfinite(fbank(np.zeros(1600, np.float32)).numpy()).all()
    assert fbank(np.zeros(100, np.float32)).shape == (0, 80)


def test_the_first_channel_is_resampled(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    left = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "s.flac", np.stack([left, np.ones_like(left) * 0.9], 1), 44100)
    wave = load_wave(tmp_path / "s.flac", 16000)
    assert abs(len(wave) - 16000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(wave)) / 16000)
    assert np.abs(wave - expected)[200:-200].max() < 5e-3


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_compressed_sound_is_read(tmp_path: Path, suffix: str) -> None:
    audio_file(tmp_path / f"s.{suffix}", 1.0)
    assert len(load_wave(tmp_path / f"s.{suffix}", 16000)) == pytest.approx(16000, abs=3000)


def test_sound_in_a_container_is_read(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "s.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        tone = 0.3 * np.sin(np.arange(16000, dtype=np.float32) / 7)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(load_wave(tmp_path / "s.m4a", 16000)) == pytest.approx(16000, abs=3000)


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def text_file(path: Path) -> Path:
    path.write_text("not a medium\n" * 50)
    return path


def empty_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def silent_file(path: Path) -> Path:
    soundfile.write(path, np.zeros(0, np.float32), 16000)
    return path


def nothing(path: Path) -> Path:
    return path


FAULTS: list[tuple[str, Callable[[Path], Path], str]] = [
    ("a.jpg", nothing, "missing file"),
    ("a.jpg", empty_file, "empty file"),
    ("a.jpg", text_file, "unreadable image"),
    ("a.jpg", lambda path: cut(image_file(path, 200, 200), 0.5), "truncated image"),
    ("a.png", lambda path: cut(image_file(path, 200, 200), 0.5), "truncated image"),
    ("a.wav", nothing, "missing file"),
    ("a.wav", empty_file, "empty file"),
    ("a.wav", text_file, "unreadable audio"),
    ("a.wav", lambda path: cut(audio_file(path), 0.5), "truncated audio"),
    ("a.wav", silent_file, "empty audio"),
    ("a.wav", lambda path: cut(audio_file(path), 0.001), "truncated audio"),
    ("a.mp4", nothing, "missing file"),
    ("a.mp4", empty_file, "empty file"),
    ("a.mp4", text_file, "unreadable video"),
    ("a.mp4", lambda path: cut(video_file(path), 0.5), "truncated video"),
    ("a.mp4", lambda path: audio_file(path.with_suffix(".wav")).rename(path), "unreadable video"),
]


@pytest.mark.parametrize(("name", "make", "reason"), FAULTS)
def test_faulty_files_are_refused_with_a_reason(
    tmp_path: Path, name: str, make: Callable[[Path], Path], reason: str
) -> None:
    path = make(tmp_path / name)
    openers: dict[str, Callable[[Path], object]] = {
        ".jpg": open_image,
        ".png": open_image,
        ".wav": lambda path: load_wave(path, 16000),
        ".mp4": probe_video,
    }
    with pytest.raises(MediaError) as caught:
        openers[path.suffix](path)
    assert caught.value.reason == reason
    assert name in caught.value.detail


@pytest.mark.parametrize(
    ("samples", "reason"),
    [(1000, "audio too short"), (1279, "audio too short"), (16000 * 61, "audio too long")],
)
def test_clips_outside_the_limits_are_refused(samples: int, reason: str) -> None:
    spec = AudioSpec(min_seconds=0.01)
    with pytest.raises(MediaError) as caught:
        check_length(Path("c.wav"), samples, spec, SubsamplingAdapterSpec())
    assert caught.value.reason == reason
    check_length(Path("c.wav"), 1360, spec, SubsamplingAdapterSpec())
