"""Decoded images as people see them: what files say of orientation, colour, depth and
transparency is followed."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

#: The most pixels of an image; Pillow warns of more. Decoded and converted they take some 0.8 GB.
MAX_PIXELS = 89_478_485
#: Formats that are opened, as Pillow names them. Others start programs (EPS), open further files,
#: or hold no images that anybody trains on.
_FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PNG",
    "PPM",
    "QOI",
    "TGA",
    "TIFF",
    "WEBP",
)
#: Pages of a document that are looked at for the first that is no thumbnail.
_MAX_PAGES = 16
#: Tags of TIFF 6.0.
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC = 254, 258, 262
_REDUCED, _WHITE_IS_ZERO = 1, 0

#: What undoes each value of the Exif tag Orientation (TIFF 6.0): how the stored image becomes the
#: one that is shown.
_UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: The colour space (as ICC profiles write it) that a profile must have to describe an image of
#: each mode.
_SPACES = {"RGB": "RGB", "RGBA": "RGB", "L": "GRAY", "CMYK": "CMYK"}


@lru_cache(maxsize=1)
def image_formats() -> tuple[str, ...]:
    """Return the formats that images may have, as far as this Pillow can read them."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def first_page(image: Image.Image) -> None:
    """Go to what a viewer shows first: past TIFF pages that are thumbnails, and to an animated
    PNG's first frame.

    The other formats begin with it.
    """
    if image.format == "PNG" and getattr(image, "default_image", False):
        image.seek(1)  # the image before it is for viewers that cannot animate
    if image.format == "TIFF":
        for page in range(_MAX_PAGES):
            try:
                image.seek(page)
            except EOFError:
                image.seek(0)
                return
            if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _REDUCED:  # type: ignore[attr-defined]
                return
        image.seek(0)


def as_shown(image: Image.Image) -> Image.Image:
    """Return a loaded image as RGB: colour profile applied, on white, upright.

    Raises:
        ValueError: the pixels are not finite.
    """
    upright = _UPRIGHT.get(_orientation(image))
    profile = image.info.get("icc_profile") or b""
    image = _in_colour(_plain_mode(image), profile)
    if image.mode in ("RGBA", "LA"):
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(
            image.convert("RGB") if image.mode == "LA" else image, mask=image.getchannel("A")
        )
        image = white
    image = image.convert("RGB")
    return image if upright is None else image.transpose(upright)


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Return grey values of more than eight bits as uint8: (H, W).

    16-bit integers are scaled from 0 to 65535, as Pillow scales colours of 16 bits. Wider integers
    and floating-point numbers have no range of their own. It is taken from the values: 0 to 1, 0 to
    255 or 0 to 65535, the first that holds them all (whole numbers: not 0 to 1); else from the
    least to the greatest.

    Raises:
        ValueError: some are not finite.
    """
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    least, greatest = float(values.min()), float(values.max())
    if not np.isfinite([least, greatest]).all():
        raise ValueError("has pixels that are not finite")
    is_whole = values.dtype.kind in "iu"
    ranges = (255.0, 65535.0) if is_whole else (1.0, 255.0, 65535.0)
    top = next((top for top in ranges if greatest <= top), None)
    if least < 0 or top is None:
        bottom, top = least, greatest
    else:
        bottom = 0.0
    scaled = (values.astype(np.float32) - np.float32(bottom)) * np.float32(
        255 / max(top - bottom, 1e-30)
    )
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """The Exif tag Orientation, from Exif or XMP; 1 where there is none or the tags are damaged, as
    viewers take it."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _plain_mode(image: Image.Image) -> Image.Image:
    """Return an image of mode L, LA, RGB, RGBA, CMYK or LAB that shows the same."""
    mode, clear = image.mode, image.info.get("transparency")
    if mode.startswith("I;16") or mode in ("I", "F"):
        values = _stored_values(image)
        grey = eight_bits(values)
        if isinstance(clear, int):
            grey[values == clear] = 255
        return Image.fromarray(grey)
    if mode in ("La", "RGBa"):
        return image.convert("LA" if mode == "La" else "RGBA")
    if mode in ("P", "PA") or clear is not None:
        return image.convert("RGBA" if clear is not None or mode == "PA" else "RGB")
    return image if mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB") else image.convert("RGB")


def _stored_values(image: Image.Image) -> np.ndarray:
    """Grey values of more than eight bits, black at 0: (H, W), uint16 where the file's values have
    at most 16 bits."""
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = values.astype(np.uint16)
    if image.format == "TIFF" and values.dtype == np.uint16:
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = int(tags.get(_BITS, (16,))[0])
        values = values << (16 - bits) if 8 < bits < 16 else values
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts eight bits only
            values = np.uint16(65535) - values
    return values


def _in_colour(image: Image.Image, profile: bytes) -> Image.Image:
    """Apply an image's ICC profile, where it describes the image and says something else than
    sRGB."""
    if image.mode == "LA" and profile:
        alpha = image.getchannel("A")
        image = _in_colour(image.getchannel("L"), profile).convert("RGB")
        image.putalpha(alpha)
        return image
    transform = _to_srgb(profile, image.mode) if profile or image.mode == "LAB" else None
    shown = None if transform is None else ImageCms.applyTransform(image, transform)
    return image if shown is None else shown


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None where it would change nothing, or the profile
    cannot be used."""
    try:
        if mode == "LAB":
            source = ImageCms.createProfile("LAB")
        else:
            opened = ImageCms.ImageCmsProfile(BytesIO(profile))
            source = opened.profile
            if (
                source.xcolor_space.strip() != _SPACES.get(mode)
                or "srgb" in (source.profile_description or "").lower()
            ):
                return None
        made = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(source),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.NOCACHE | ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # threads may share it
    except Exception:  # a damaged profile: viewers show the image as if it had none
        return None
    return made
