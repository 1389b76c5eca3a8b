"""Ids that no tokenizer has: what batches, labels and models agree on."""

from __future__ import annotations

IGNORE_INDEX = -100
"""Label of a position that is not supervised."""
IMAGE_ID = -200
"""Stands at every language position that an image tile or video frame fills."""
AUDIO_ID = -500
"""Stands at every language position that a clip fills."""
