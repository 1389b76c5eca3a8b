"""Places of the catalogue as files with origins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vita_train.data.catalogue.entry import Download, Hub, LocalFiles, ModelScope, Place, S3Files
from vita_train.data.fetch.http import HttpOrigin
from vita_train.data.fetch.hub import resolve_hub
from vita_train.data.fetch.local import resolve_local
from vita_train.data.fetch.modelscope import resolve_modelscope
from vita_train.data.fetch.origin import RemoteFile
from vita_train.data.fetch.s3 import resolve_s3


def resolve(
    place: Place, pinned: Mapping[str, str], known_repos: Iterable[str]
) -> tuple[list[RemoteFile], dict[str, str]]:
    """Return the files of a place, and what its revisions stand for. Access to it is tried.

    Args:
        place: all kinds but forms and Debian packages, which have no files of their own.
        pinned: what revisions stood for in an earlier fetch.
        known_repos: repositories of the catalogue, to guess what a wrong name meant.

    Raises:
        UserError, DataError, StorageError: it is not there, not for us, or does not answer.
    """
    match place:
        case Hub():
            return resolve_hub(place, pinned, known_repos)
        case ModelScope():
            return resolve_modelscope(place, pinned)
        case S3Files():
            return resolve_s3(place), {}
        case LocalFiles():
            return resolve_local(place), {}
        case Download():
            origin = HttpOrigin(
                place.url,
                missing="correct the URL, or look for its new place: vita-train data list shows "
                "what the catalogue knows",
            )
            return [
                RemoteFile(
                    place.path,
                    origin,
                    size=place.bytes,
                    sha256=place.sha256,
                    unpack=place.unpack,
                    inside=place.inside,
                )
            ], {}
    raise TypeError(type(place).__name__)
