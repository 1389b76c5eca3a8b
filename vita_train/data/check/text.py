"""What may be wrong with text that the format allows: signs of a broken conversion, control tokens,
and answers that go round in circles."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence

#: Name of a finding to what it means; `texts` finds them.
TEXT_FINDINGS = {
    "control token": "text holds a control token of a language model; it is trained as plain text",
    "replacement character": "text holds U+FFFD: characters were lost in an earlier conversion",
    "mojibake": "text looks like UTF-8 that was read in another encoding",
    "control character": "text holds control characters",
    "repetition": "an answer repeats itself",
    "answer without words": "an answer has neither letters nor digits",
}

_CONTROL_TOKEN = re.compile(
    r"<\|[a-zA-Z0-9_]{2,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:unk|pad|bos|eos)>"
)
#: Two bytes of UTF-8 as Latin-1 or Windows-1252 show them, quotes and dashes, and the sign for
#: twice U+FFFD in GBK.
_MOJIBAKE = re.compile(
    "[\u00c3\u00c2][\u0080-\u00bf]|\u00e2\u20ac|\u00ef\u00bf\u00bd|\u951f\u65a4\u62f7"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: Bytes of an answer from which on its repetition is looked at, and the share that deflate leaves
#: of one that goes round in circles; prose keeps 0.4 and more, tables 0.2.
_LEAST, _CIRCLES = 400, 0.1
#: Lines from which on repeated ones are counted, and the share that is too much (Gopher's rule).
_LINES, _REPEATED = 6, 0.3


def text_findings(turns: Sequence[str]) -> list[str]:
    """Return the names of what is found in the turns of a record, human and gpt in alternation."""
    whole = "\n".join(turns)
    found = [
        name
        for name, hit in (
            ("control token", _CONTROL_TOKEN.search(whole)),
            ("replacement character", "\ufffd" in whole),
            ("mojibake", _MOJIBAKE.search(whole)),
            ("control character", _CONTROL.search(whole)),
        )
        if hit
    ]
    answers = turns[1::2]
    if any(repeats(answer) for answer in answers):
        found.append("repetition")
    if any(not any(letter.isalnum() for letter in answer) for answer in answers):
        found.append("answer without words")
    return found


def repeats(text: str) -> bool:
    """Tell whether a text says the same again and again."""
    data = text.encode("utf-8", errors="replace")
    if len(data) < _LEAST:
        return False
    if len(zlib.compress(data, 1)) < _CIRCLES * len(data):
        return True
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < _LINES:
        return False
    return sum(count - 1 for count in Counter(lines).values()) > _REPEATED * len(lines)
