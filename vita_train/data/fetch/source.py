"""What a word on the command line stands for: a name of the catalogue, or the address of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pydantic import ValidationError

from vita_train.credentials import holds_credentials
from vita_train.data.catalogue.entry import (
    DebianPackage,
    Download,
    Entry,
    Hub,
    LocalFiles,
    ModelScope,
    Place,
    S3Files,
)
from vita_train.data.catalogue.load import Catalogue
from vita_train.errors import UserError

#: Name of the entry that addresses on a command line make up; no entry of a catalogue can have it.
ADDRESSES = "addresses:"
#: Prefix of an address to what it is of.
_HUBS = {
    "hf:": ("hub", "model"),
    "hf:models/": ("hub", "model"),
    "hf:datasets/": ("hub", "dataset"),
    "modelscope:": ("modelscope", "model"),
    "modelscope:models/": ("modelscope", "model"),
    "modelscope:datasets/": ("modelscope", "dataset"),
}
_SSH = re.compile(r"^(ssh|git\+ssh|git)://|^[\w.-]+@[\w.-]+:")
FORMS = (
    "a name of the catalogue (vita-train data list), https://..., hf:datasets/OWNER/NAME[@REVISION]"
    "[:FILE], modelscope:datasets/OWNER/NAME, s3://bucket/prefix/, file:PATH or debian:PACKAGE"
)


def parse_sources(words: Sequence[str], catalogue: Catalogue, unpack: bool) -> list[Entry]:
    """Return the entries that words stand for, each once. All addresses make up one entry, so that
    parts of an archive may come from several of them.

    Args:
        words: names and addresses.
        catalogue: of names.
        unpack: whether archives at addresses are unpacked.

    Raises:
        UserError: one is neither a name nor an address that we fetch from.
    """
    entries: dict[str, Entry] = {}
    places = []
    for word in words:
        found = _parsed(word, catalogue, unpack)
        if isinstance(found, Entry):
            entries[found.name] = found
        else:
            places.append(found)
    if places:
        entries[ADDRESSES] = Entry.model_construct(
            name=ADDRESSES, title=ADDRESSES, kind="media", places=tuple(places)
        )
    return list(entries.values())


def with_needs(entries: Sequence[Entry], catalogue: Catalogue) -> list[Entry]:
    """Return entries followed by those with the media that their records name, each once."""
    found = {entry.name: entry for entry in entries}
    names = [entry.name for entry in entries if entry.name != ADDRESSES]
    for name in catalogue.with_needs(names):
        found.setdefault(name, catalogue[name])
    return list(found.values())


def _parsed(text: str, catalogue: Catalogue, unpack: bool) -> Entry | Place:
    if _SSH.match(text):
        host = re.split(r"[:/]", re.sub(r"^[\w+]+://", "", text).rpartition("@")[2])[0]
        raise UserError(
            "SSH remotes are not fetched from: keys and agents of yours are needed for them",
            code="VT-USE-205",
            where=text,
            remedy=f"use the https address or the hub name with a token (HF_TOKEN), or clone "
            f"from {host} yourself, pull its LFS files, and name the checkout as file:PATH",
        )
    if holds_credentials(text):
        raise UserError(
            "holds a user, a password or a key inside a URL",
            code="VT-USE-206",
            where=text,
            remedy="give tokens by the environment: HF_TOKEN, MODELSCOPE_API_TOKEN, AWS_*",
        )
    if ":" not in text:
        return catalogue[text]
    try:
        return _place(text, "" if unpack else None)
    except ValidationError as error:
        raise UserError(
            f"is not an address of files: {error.errors()[0]['msg']}",
            code="VT-USE-207",
            where=text,
            remedy=f"a source is {FORMS}",
        ) from error


def _place(text: str, unpack: str | None) -> Place:
    prefix = max((key for key in _HUBS if text.startswith(key)), key=len, default="")
    if prefix:
        kind, type_ = _HUBS[prefix]
        repo, _, files = text.removeprefix(prefix).partition(":")
        repo, _, revision = repo.partition("@")
        settings: dict[str, object] = {
            "repo": repo,
            "type": type_,
            "to": repo.rpartition("/")[2],
            "unpack": unpack,
        }
        settings |= {"files": (files,)} if files else {}
        settings |= {"revision": revision} if revision else {}
        return (Hub if kind == "hub" else ModelScope).model_validate(settings)
    scheme = text.partition(":")[0]
    if scheme in ("http", "https"):
        return Download(url=text, unpack=unpack)
    if scheme == "s3":
        return S3Files(uri=text, unpack=unpack)
    if scheme == "file":
        path = text.removeprefix("file:")
        path = unquote(path.removeprefix("//")) if path.startswith("//") else path
        whole = Path(path).expanduser()
        to = PurePosixPath(whole.name).name if whole.is_dir() else ""
        return LocalFiles(path=str(whole), to=to, unpack=unpack)
    if scheme == "debian":
        name = text.removeprefix("debian:")
        return DebianPackage(package=name, to=name)
    raise UserError(
        f"{scheme}: is not an address that files are fetched from",
        code="VT-USE-208",
        where=text,
        remedy=f"a source is {FORMS}",
    )
