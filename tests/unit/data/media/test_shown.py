"""Images and videos as people see them."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.helpers.media_zoo import corners, steady, tone, write_video
from vita_train.data.media import MediaError
from vita_train.data.media.image import open_image, to_square
from vita_train.data.media.shown import eight_bits
from vita_train.data.media.video import load_frames, probe_video, video_frame_indices
from vita_train.recipe.data import DataSpec, VideoSpec

#: What a viewer has to do for each Exif orientation, undone: how the file stores the image.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def at_corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours of the four quarters, to the nearest of 0 and 250."""
    pixels = np.asarray(image).astype(int)
    height, width = pixels.shape[0] // 4, pixels.shape[1] // 4
    return [tuple(250 * (pixels[y, x] > 125)) for y in (height, -height) for x in (width, -width)]


RIGHT = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 250)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_orientation_is_followed(tmp_path: Path, suffix: str, orientation: int) -> None:
    turn = STORED[orientation]
    image = Image.fromarray(corners(96, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"p.{suffix}"
    (image if turn is None else image.transpose(turn)).save(path, exif=exif)
    shown = open_image(path)
    assert shown.size == (96, 64)
    assert at_corners(shown) == RIGHT


def test_damaged_tags_do_not_turn_a_picture_away(tmp_path: Path) -> None:
    Image.fromarray(corners()).save(
        tmp_path / "p.jpg", exif=b"Exif\0\0MM\0*garbage", quality=95, icc_profile=b"no profile"
    )
    assert at_corners(open_image(tmp_path / "p.jpg")) == RIGHT


def ramp(low: float, high: float, kind: str) -> np.ndarray:
    return np.linspace(low, high, 32 * 48).reshape(32, 48).astype(kind)


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (ramp(0, 65535, "u2"), "png"),
        (ramp(0, 65535, "u2"), "tif"),
        (ramp(0, 1, "f4"), "tif"),
        (ramp(0, 255, "f4"), "tif"),
        (ramp(0, 65535, "f4"), "tif"),
        (ramp(-3, 5, "f4"), "tif"),
        (ramp(0, 255, "i4"), "tif"),
        (ramp(0, 2**31 - 1, "i4"), "tif"),
        (ramp(-1e6, 1e6, "i4"), "tif"),
        (ramp(0, 65535, "u2"), "ppm"),
    ],
)
def test_deep_pictures_are_scaled_by_their_range(
    tmp_path: Path, values: np.ndarray, suffix: str
) -> None:
    Image.fromarray(values).save(tmp_path / f"p.{suffix}")
    grey = np.asarray(open_image(tmp_path / f"p.{suffix}"))[..., 0].astype(float)
    assert np.abs(grey - ramp(0, 255, "f8")).max() <= 1.5


def test_pixels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = ramp(0, 1, "f4")
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "p.tif")
    with pytest.raises(MediaError, match="not finite"):
        open_image(tmp_path / "p.tif")
    assert eight_bits(np.zeros((2, 2), np.float32)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(ramp(0, 200, "u2")),
        Image.merge("RGBA", [*Image.fromarray(corners()).split(), Image.new("L", (48, 32), 0)]),
    ],
    ids=["sixteen bits of which eight are used", "wholly transparent"],
)
def test_pictures_that_become_blank_are_refused(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "p.png")
    with pytest.raises(MediaError) as caught:
        open_image(tmp_path / "p.png")
    assert caught.value.reason == "blank image"


@pytest.mark.parametrize("suffix", ["avif", "jp2", "jpg", "png", "qoi", "webp"])
@pytest.mark.parametrize("rest", ["nothing", "zeros"])
def test_pictures_cut_short_are_refused(tmp_path: Path, suffix: str, rest: str) -> None:
    path = tmp_path / f"p.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert open_image(path).size == (160, 160)
    content = path.read_bytes()
    half = content[: len(content) // 2]
    path.write_bytes(half + bytes(len(content) - len(half) if rest == "zeros" else 0))
    with pytest.raises(MediaError):
        open_image(path)


def test_a_changed_byte_of_a_png_is_found(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.fromarray(corners()).save(path)
    content = bytearray(path.read_bytes())
    content[content.find(b"IDAT") + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(MediaError):
        open_image(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_transparent_parts_of_every_mode_are_white(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (8, 8), 3)
        image.putpalette([0] * 768)
        image.save(tmp_path / "p.png", transparency=3)
    elif mode == "1":
        Image.new("L", (8, 8), 7).save(tmp_path / "p.png", transparency=7)
    else:
        Image.new(mode, (8, 8), (0,) * len(mode)).save(tmp_path / "p.png")
    assert open_image(tmp_path / "p.png").getpixel((4, 4)) == (255, 255, 255)


def test_cmyk_is_shown_in_its_colours(tmp_path: Path) -> None:
    for suffix in ("jpg", "tif"):
        Image.fromarray(corners()).convert("CMYK").save(tmp_path / f"p.{suffix}")
        assert at_corners(open_image(tmp_path / f"p.{suffix}")) == RIGHT


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    image = Image.fromarray(corners())
    shown = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    assert shown is not None
    shown.save(tmp_path / "lab.tif")
    assert at_corners(open_image(tmp_path / "lab.tif")) == RIGHT
    # A profile whose red and blue are exchanged: the image that is shown has them exchanged.
    swapped = bytearray(srgb.tobytes())
    places = {bytes(swapped[at : at + 4]): at for at in range(132, 132 + 12 * swapped[131], 12)}
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    swapped[red + 4 : red + 12], swapped[blue + 4 : blue + 12] = (
        swapped[blue + 4 : blue + 12],
        swapped[red + 4 : red + 12],
    )
    image.save(
        tmp_path / "swapped.png",
        icc_profile=bytes(swapped)
        .replace(b"sRGB", b"ours")
        .replace("sRGB".encode("utf-16-be"), "ours".encode("utf-16-be")),
    )
    assert at_corners(open_image(tmp_path / "swapped.png")) == [
        RIGHT[2],
        RIGHT[1],
        RIGHT[0],
        RIGHT[3],
    ]


def test_the_first_page_that_is_shown_is_taken(tmp_path: Path) -> None:
    first, other = Image.fromarray(corners()), Image.new("RGB", (20, 10))
    for suffix in ("gif", "webp", "tif"):
        first.save(tmp_path / f"p.{suffix}", save_all=True, append_images=[other.resize((48, 32))])
        assert at_corners(open_image(tmp_path / f"p.{suffix}")) == RIGHT
    first.save(tmp_path / "p.png", save_all=True, append_images=[first], default_image=True)
    other.resize((48, 32)).save(
        tmp_path / "q.png", save_all=True, append_images=[first, first], default_image=True
    )
    assert at_corners(open_image(tmp_path / "q.png")) == RIGHT
    whole = first.copy()
    whole.encoderinfo = {"tiffinfo": {254: 0}}
    other.resize((48, 32)).save(
        tmp_path / "thumb.tif", tiffinfo={254: 1}, save_all=True, append_images=[whole]
    )
    assert at_corners(open_image(tmp_path / "thumb.tif")) == RIGHT


def test_formats_that_start_programs_are_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "bin" / "gs"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "v.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(MediaError) as caught:
        open_image(tmp_path / "v.jpg")
    assert caught.value.reason == "unreadable image"
    assert not (tmp_path / "called").exists()


def test_thin_pictures_are_padded_without_a_huge_square() -> None:
    square = to_square(Image.new("RGB", (60_000, 1), (250, 0, 0)), 32, "pad")
    assert square.size == (32, 32)
    assert square.getpixel((0, 0)) == (124, 116, 104)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_videos_are_turned_upright(tmp_path: Path, suffix: str, rotation: int) -> None:
    # The angle is counter-clockwise: what is stored was turned the other way.
    stored = np.rot90(corners(96, 64), -rotation // 90)
    path = write_video(
        tmp_path / f"v.{suffix}",
        steady(3),
        rotation=rotation,
        pictures=[np.ascontiguousarray(stored)] * 3,
    )
    film = probe_video(path)
    assert (film.width, film.height) == (96, 64)
    frame = load_frames(path, [1], DataSpec(), 64, tiled=False)[0]
    assert at_corners(Image.fromarray(frame)) == RIGHT


def test_angles_that_are_no_quarter_turn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="quarter turn"):
        probe_video(write_video(tmp_path / "v.mp4", steady(2), rotation=30))


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(2), (96, 32)), (Fraction(1, 2), (48, 64))])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_pixels_are_made_square(
    tmp_path: Path, suffix: str, aspect: Fraction, size: tuple[int, int]
) -> None:
    film = probe_video(write_video(tmp_path / f"v.{suffix}", steady(2), aspect=aspect))
    assert (film.width, film.height) == size


def screen(path: Path, first: Fraction = Fraction(0)) -> Path:
    """Ten frames of red within 0.4 s, then green, blue and white for a second each."""
    times = [
        first + time
        for time in (
            *(Fraction(n, 25) for n in range(10)),
            Fraction(2, 5),
            Fraction(7, 5),
            Fraction(12, 5),
            Fraction(17, 5),
        )
    ]
    colours = [(255, 0, 0)] * 10 + [(0, 255, 0), (0, 0, 255), (255, 255, 255), (255, 255, 255)]
    pictures = [np.full((32, 48, 3), colour, np.uint8) for colour in colours]
    return write_video(path, times, pictures=pictures)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
@pytest.mark.parametrize("first", [Fraction(0), Fraction(3)])
def test_frames_are_taken_by_time_where_the_rate_is_not_constant(
    tmp_path: Path, suffix: str, first: Fraction
) -> None:
    path = screen(tmp_path / f"v.{suffix}", first)
    film = probe_video(path)
    assert video_frame_indices(film, VideoSpec(max_frames=4)) == [0, 10, 11, 12]
    assert video_frame_indices(film, VideoSpec(fps=2, max_frames=16)) == [0, 10, 10, 11, 11, 12, 12]
    assert video_frame_indices(film, VideoSpec(fps=2, max_frames=4)) == [0, 10, 11, 12]
    assert video_frame_indices(film, VideoSpec(min_frames=8)) == [0, 10, 10, 11, 11, 12, 12, 13]
    repeated = VideoSpec(min_frames=8, short="published")  # of the frames shown at 0, 1, 2 and 3 s
    assert video_frame_indices(film, repeated) == [0, 0, 0, 10, 10, 11, 11, 12]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "ts"])
def test_constant_rates_are_sampled_as_ever(tmp_path: Path, suffix: str) -> None:
    path = write_video(
        tmp_path / f"v.{suffix}", [Fraction(n, 25) for n in range(60)], pictures=[corners()] * 60
    )
    film = probe_video(path)
    assert film.times == ()
    assert film.rate == pytest.approx(25, rel=0.02)
    assert video_frame_indices(film, VideoSpec(min_frames=1)) == [0, 25, 50]


def test_cover_pictures_are_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 48, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")))
        container.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(tone()[None], format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="cover"):
        probe_video(path)


@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile 'v.mp4'\n",
        "#EXTM3U\n#EXTINF:1,\nv.mp4\n#EXT-X-ENDLIST\n",
        "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
    ],
)
def test_scripts_that_name_other_files_are_no_videos(tmp_path: Path, script: str) -> None:
    write_video(tmp_path / "v.mp4", steady(2))
    (tmp_path / "x.mp4").write_text(script)
    with pytest.raises(MediaError) as caught:
        probe_video(tmp_path / "x.mp4")
    assert caught.value.reason == "unreadable video"
