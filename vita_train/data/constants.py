"""Ids and marks that records, batches and models agree on."""

from __future__ import annotations

IGNORE_INDEX = -100
"""Label of a position that is not supervised."""
IMAGE_ID = -200
"""Stands at every language position that an image tile or video frame fills."""
AUDIO_ID = -500
"""Stands at every language position that a clip fills."""

MARK_AUDIO = "☞"
"""Opens a reply to a spoken query."""
MARK_NEGATIVE = "☟"
"""Opens a reply to sound that was not meant for the assistant."""
MARK_TEXT = "☜"
"""Opens a reply to a typed query."""
STATE_MARKS = (MARK_AUDIO, MARK_NEGATIVE, MARK_TEXT)

PLACEHOLDERS = ("image", "video", "audio")
"""Kinds of media a human turn may hold, written ``<image>``, ``<video>``, ``<audio>``."""
