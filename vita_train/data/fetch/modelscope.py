"""Repositories of ModelScope, by its HTTP interface; no client of its own is needed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from vita_train.data.catalogue.entry import ModelScope
from vita_train.data.fetch.http import HttpOrigin, away
from vita_train.data.fetch.origin import AwayError, RemoteFile
from vita_train.data.fetch.patterns import chosen, within
from vita_train.errors import StorageError

#: Bytes of a listing that are read.
_MOST = 256 << 20
_PAGE = 100


def endpoint() -> str:
    """Return ModelScope's address: MODELSCOPE_ENDPOINT where it is set."""
    return (os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn").rstrip("/")


def resolve_modelscope(
    place: ModelScope, pinned: Mapping[str, str]
) -> tuple[list[RemoteFile], dict[str, str]]:
    """Return the files that a place names, and the revision they are of.

    The endpoint comes from MODELSCOPE_ENDPOINT, a token from MODELSCOPE_API_TOKEN.

    Raises:
        UserError: it is not there, or not for this token.
        StorageError: it does not answer, or not as ModelScope does.
    """
    page = f"{endpoint()}/{place.type}s/{place.repo}"
    api = f"{endpoint()}/api/v1/{place.type}s/{place.repo}/repo"
    key = f"modelscope:{place.type}s/{place.repo}@{place.revision}"
    revision = pinned.get(key, place.revision)
    token = os.environ.get("MODELSCOPE_API_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    access = f"log in at {page}, and set MODELSCOPE_API_TOKEN to a token of your account"
    missing = f"check the name at {page}; names differ from those of other hubs"
    files: dict[str, Any] = {}
    number = 1
    while True:
        query = {"Revision": revision, "Recursive": "true"}
        if place.type == "dataset":
            query |= {"Root": "/", "PageNumber": str(number), "PageSize": str(_PAGE)}
        url = f"{api}/{'tree' if place.type == 'dataset' else 'files'}?{urlencode(query)}"
        listed = _listed(HttpOrigin(url, headers, refused=access, missing=missing), page)
        files |= {file["Path"]: file for file in listed if file.get("Type") != "tree"}
        if place.type == "model" or len(listed) < _PAGE:
            break
        number += 1
    return [
        RemoteFile(
            within(place.to, path, page),
            HttpOrigin(
                f"{api}?{urlencode({'Revision': revision, 'FilePath': path})}",
                headers,
                refused=access,
            ),
            size=files[path].get("Size"),
            sha256=files[path].get("Sha256") or None,
            unpack=place.unpack,
            inside=place.inside,
        )
        for path in chosen(files, place.files, page)
    ], {key: revision}


def _listed(origin: HttpOrigin, page: str) -> list[dict[str, Any]]:
    try:
        answer = json.loads(origin.read(_MOST))
        files = answer["Data"]["Files"]
        if all(_is_file(file) for file in files):
            return list(files)
    except AwayError as error:
        raise away(page, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise StorageError(
        "the answer is not a list of files",
        code="VT-STORE-012",
        where=page,
        remedy="check MODELSCOPE_ENDPOINT, and whether a proxy or a login page stands before it",
    )


def _is_file(file: Any) -> bool:
    size, digest = file.get("Size"), file.get("Sha256")
    return (
        isinstance(file["Path"], str)
        and (size is None or (isinstance(size, int) and size >= 0))
        and (not digest or bool(re.fullmatch("[0-9a-f]{64}", str(digest))))
    )
