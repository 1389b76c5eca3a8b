"""The speech codec and its discriminators."""

from __future__ import annotations

from vita_train.models.codec.discriminators import Discriminators
from vita_train.models.codec.model import Codec, CodecOutput
from vita_train.recipe.model import CodecSpec

__all__ = ["Codec", "CodecOutput", "Discriminators", "build_codec", "build_discriminators"]


def build_codec(spec: CodecSpec) -> Codec:
    """Return an untrained codec.

    Raises:
        RecipeError: the sizes contradict each other.
    """
    return Codec(spec)


def build_discriminators(spec: CodecSpec) -> Discriminators:
    """Return untrained discriminators of the width that suits the codec."""
    return Discriminators(spec)
