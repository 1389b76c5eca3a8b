"""Repositories of the Hugging Face hub: the client tells revision, files and sizes, and whether we
may read them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from vita_train.data.catalogue.entry import Hub
from vita_train.data.fetch.http import HttpOrigin
from vita_train.data.fetch.origin import RemoteFile
from vita_train.data.fetch.patterns import chosen, within
from vita_train.errors import StorageError, UserError


def endpoint() -> str:
    """Return the hub's address: HF_ENDPOINT where it is set."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def resolve_hub(
    place: Hub, pinned: Mapping[str, str], known: Iterable[str]
) -> tuple[list[RemoteFile], dict[str, str]]:
    """Return the files that a place names, and the commit that its revision stands for.

    The endpoint comes from HF_ENDPOINT, the token from HF_TOKEN or the hub's own login.

    Args:
        place: repository and patterns.
        pinned: commits of an earlier fetch by repository and revision; they hold.
        known: repositories of the catalogue, for a name that is wrong.

    Raises:
        UserError: it is not there, or not for this token.
        StorageError: the hub does not answer.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_token

    name = f"{place.type}s/{place.repo}" if place.type == "dataset" else place.repo
    page = f"{endpoint()}/{name}"
    api = HfApi(endpoint=endpoint(), library_name="vita-train")
    token = get_token()
    key = f"hub:{name}@{place.revision}"
    with _translated(place, page, token is not None, known):
        info: Any = api.repo_info(
            place.repo,
            repo_type=place.type,
            revision=pinned.get(key, place.revision),
            files_metadata=True,
        )
        if getattr(info, "gated", False):
            api.auth_check(place.repo, repo_type=place.type)
    commit = str(info.sha)
    files = {file.rfilename: file for file in info.siblings or []}
    headers = build_hf_headers(library_name="vita-train")
    return [
        RemoteFile(
            within(place.to, path, page),
            HttpOrigin(
                hf_hub_url(
                    place.repo,
                    path,
                    repo_type=place.type,
                    revision=commit,
                    endpoint=endpoint(),
                ),
                headers,
                refused=_access(page),
            ),
            size=files[path].size,
            sha256=files[path].lfs.sha256 if files[path].lfs else None,
            unpack=place.unpack,
            inside=place.inside,
        )
        for path in chosen(files, place.files, page)
    ], {key: commit}


def _access(page: str) -> str:
    return (
        f"accept the terms at {page}, and set HF_TOKEN to a token of your account that may read it"
    )


@contextmanager
def _translated(place: Hub, page: str, has_token: bool, known: Iterable[str]) -> Iterator[None]:
    from huggingface_hub import errors

    seen = "a token was sent" if has_token else "no token was found"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"access to the repository is refused: it asks to accept its terms first; {seen}",
            code="VT-USE-193",
            where=page,
            remedy=_access(page),
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"the repository has no revision {place.revision!r}",
            code="VT-USE-194",
            where=page,
            remedy="name a branch, a tag or a commit of it",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        near = get_close_matches(place.repo, known, n=2, cutoff=0.5)
        status = getattr(getattr(error, "response", None), "status_code", 404)
        raise UserError(
            f"there is no such {place.type}, or it is private ({status}); {seen}",
            code="VT-USE-195",
            where=page,
            remedy=(f"did you mean {' or '.join(near)}? " if near else "")
            + "check the name; for a private one set HF_TOKEN to a token that may read it",
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status in (401, 403):
            raise UserError(
                f"the hub refuses access ({status}); {seen}",
                code="VT-USE-196",
                where=page,
                remedy=f"{_access(page)}; a token that is no longer valid is refused everywhere",
            ) from error
        raise _hub_away(page, f"it answers {status}") from error
    except (errors.HTTPError, OSError) as error:  # of the client's own HTTP library
        raise _hub_away(page, type(error).__name__) from error


def _hub_away(page: str, reason: str) -> StorageError:
    return StorageError(
        f"the hub does not answer: {reason}",
        code="VT-STORE-011",
        where=page,
        remedy="check the network and the proxy (HTTPS_PROXY), or name a mirror by HF_ENDPOINT; "
        "then run the same command again",
    )
