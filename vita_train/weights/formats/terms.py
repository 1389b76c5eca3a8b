"""Terms of weights that are not free to use: accepted once on a machine, by the user."""

from __future__ import annotations

import hashlib

from vita_train.errors import UserError
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.host_cache import cache_dir


def accept_terms(terms: str, *, accepted: bool) -> None:
    """Make sure that the user has accepted the owners' terms, now or before.

    Raises:
        UserError: not yet.
    """
    if not terms:
        return
    # By the text's digest: terms that change have to be accepted again
    note = cache_dir() / "accepted-terms" / hashlib.sha256(terms.encode()).hexdigest()[:16]
    if note.is_file():
        return
    if not accepted:
        raise UserError(
            f"these weights may be used under the terms of their owners alone: {terms}",
            code="VT-USE-125",
            remedy="read the licence that came with them; if you accept it, add --accept-licence",
        )
    with translate_os_errors(note):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(terms + "\n", encoding="utf-8")
