"""A model small enough to run in milliseconds."""

from tests.helpers.small_model import corpus, modules, omni, ours, recipe, small_spec

__all__ = ["corpus", "modules", "omni", "ours", "recipe", "small_spec"]
