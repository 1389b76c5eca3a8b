"""Fixtures of these tests."""

from tests.helpers.stores import s3_store

__all__ = ["s3_store"]
