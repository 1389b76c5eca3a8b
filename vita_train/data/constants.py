"""Marks and placeholders that records, prompts and replies agree on."""

from __future__ import annotations

MARK_AUDIO = "☞"
"""Opens a reply to a spoken query."""
MARK_NEGATIVE = "☟"
"""Opens a reply to audio that was not meant for the assistant."""
MARK_TEXT = "☜"
"""Opens a reply to a typed query."""
STATE_MARKS = (MARK_AUDIO, MARK_NEGATIVE, MARK_TEXT)

PLACEHOLDERS = ("image", "video", "audio")
"""Kinds of media a human turn may hold, written ``<image>``, ``<video>``, ``<audio>``."""
