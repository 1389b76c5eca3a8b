"""Data of recipes that are never fetched: a recipe has to name some source."""

from __future__ import annotations

from typing import Any

NO_SOURCE: dict[str, Any] = {"source": {"none": {"kind": "records", "registry": "none.json"}}}
