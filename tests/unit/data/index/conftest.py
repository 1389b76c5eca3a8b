"""Stores of both kinds, empty, for each test."""

from tests.helpers.stores import s3_store, store

__all__ = ["s3_store", "store"]
