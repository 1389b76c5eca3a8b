"""What the catalogue says about one corpus or model: a YAML file of a strict schema."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from vita_train.credentials import holds_credentials
from vita_train.data.catalogue.expected import Expected
from vita_train.recipe.base import MAX_NAME, Strict
from vita_train.recipe.tasks import TASK_KINDS

#: What an entry may be used for: the stages of VITA-1.5, and those of VILA and AuroraCap.
STAGES = (
    *("1.1", "1.2", "1.3", "2.1a", "2.1b", "2.2", "3.1", "3.2"),
    *("vila-1", "vila-2", "vila-3"),
    *("aurora-projection", "aurora-vision", "aurora-language"),
    "evaluation",
)


def _inside(path: str) -> str:
    """Accept a relative path that stays below its folder."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or "\\" in path or ".." in parts or any(":" in part for part in parts):
        raise ValueError(f"{path!r} is not a relative path with slashes that stays in its folder")
    return path


def _url(url: str) -> str:
    if holds_credentials(url):
        raise ValueError("holds a user, a password or a key inside a URL")
    if urlsplit(url).scheme not in ("https", "http") or not urlsplit(url).hostname:
        raise ValueError(f"{url!r} is not an http(s) URL")
    return url


def _known_stage(stage: str) -> str:
    if stage not in STAGES:
        raise ValueError(f"{stage!r} is not a stage of the catalogue: {', '.join(STAGES)}")
    return stage


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=MAX_NAME)]
Inside = Annotated[str, AfterValidator(_inside)]
Url = Annotated[str, AfterValidator(_url)]
Bytes = Annotated[int, Field(ge=0, le=10**16)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Licence(Strict):
    """Under which terms the files may be used."""

    name: str = "not stated"
    """As its publisher names it; SPDX where there is one."""
    url: Url | None = None
    note: str = ""
    """What to know before using it, such as no commercial use."""


class Hub(Strict):
    """Files of a Hugging Face repository."""

    kind: Literal["hub"] = "hub"
    repo: Annotated[str, Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]
    type: Literal["dataset", "model"] = "dataset"
    revision: str = "main"
    """Branch, tag or commit. The commit that it stands for is kept in the lock file."""
    files: tuple[str, ...] = ("*",)
    """Patterns of files to take; ``*`` crosses slashes."""
    to: Inside = ""
    """Folder of the target tree."""
    unpack: Inside | None = None
    """Folder that archives among the files are unpacked to; none leaves them as they are."""
    inside: str = ""
    """Pattern of further archives within those; each is unpacked where it lies, and removed."""


class ModelScope(Strict):
    """Files of a ModelScope repository; fields as of a hub repository."""

    kind: Literal["modelscope"] = "modelscope"
    repo: Annotated[str, Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]
    type: Literal["dataset", "model"] = "dataset"
    revision: str = "master"
    files: tuple[str, ...] = ("*",)
    to: Inside = ""
    unpack: Inside | None = None
    inside: str = ""


class Download(Strict):
    """One file at a URL."""

    kind: Literal["http"] = "http"
    url: Url
    to: Inside | None = None
    """Path in the target tree; none takes the URL's last part."""
    bytes: Bytes | None = None
    sha256: Sha256 | None = None
    unpack: Inside | None = None
    inside: str = ""

    @property
    def path(self) -> str:
        """Path of the file in the target tree."""
        return self.to or PurePosixPath(urlsplit(self.url).path).name or "download"


class S3Files(Strict):
    """Objects below a URI: those under a prefix that ends in a slash, or a single one."""

    kind: Literal["s3"] = "s3"
    uri: Annotated[str, Field(pattern=r"^s3://[^/@]+/.*$")]
    endpoint: Url | None = None
    """Of a server other than AWS; none takes AWS_ENDPOINT_URL."""
    files: tuple[str, ...] = ("*",)
    to: Inside = ""
    unpack: Inside | None = None
    inside: str = ""


class LocalFiles(Strict):
    """A file or folder of this machine, such as a git checkout."""

    kind: Literal["file"] = "file"
    path: str
    files: tuple[str, ...] = ("*",)
    to: Inside = ""
    unpack: Inside | None = None
    inside: str = ""


class DebianPackage(Strict):
    """The files of a Debian package, by apt-get."""

    kind: Literal["debian"] = "debian"
    package: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
    to: Inside = ""


class Form(Strict):
    """Files that only a person gets: after a form, a login, or by a list of links."""

    kind: Literal["form"] = "form"
    url: Url
    about: str
    """What to do there, in a sentence."""
    to: Inside
    """Where the files are to be put."""
    expect: tuple[Inside, ...] = ()
    """Files or folders below ``to`` that tell that they are there; none asks for anything in
    it."""


Place = Annotated[
    Hub | ModelScope | Download | S3Files | LocalFiles | DebianPackage | Form,
    Field(discriminator="kind"),
]


class Entry(Strict):
    """One corpus or model."""

    format: Literal["vita-train/catalogue/v1"] = "vita-train/catalogue/v1"
    name: Name
    title: str
    about: str = ""
    """What it holds, and what to know about it."""
    kind: Literal["corpus", "media", "model", "evaluation"] = "corpus"
    """media: only images, audio or videos, which the records of other corpora name."""
    stages: tuple[Annotated[str, AfterValidator(_known_stage)], ...] = ()
    licence: Licence = Licence()
    places: tuple[Place, ...] = ()
    """All of them make up the entry, with those of the entries that it needs."""
    mirrors: dict[str, tuple[Place, ...]] = Field(default_factory=dict)
    """Other places of the same files, by the name that ``--from`` takes."""
    needs: tuple[Name, ...] = ()
    """Entries with the media that its records name."""
    task: str | None = None
    """Task kind of its records."""
    adapter: str | None = None
    """What turns its files into records; `vita_train.data.adapters` has the list."""
    records_from: tuple[Inside, ...] = ()
    """Files that the adapter reads, in the target tree."""
    roots: dict[str, Inside] = Field(default_factory=dict)
    """Media folders of the target tree by set key."""
    bytes: Bytes | None = None
    """Of the download, about."""
    unpacked_bytes: Bytes | None = None
    expected: Expected | None = None
    """What a whole fetch holds, for ``vita-train data inventory``."""
    records: Annotated[int, Field(ge=1)] | None = None
    """About how many records it has."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """About how many hours of audio or video."""

    @model_validator(mode="after")
    def _consistent(self) -> Entry:
        if self.task is not None and self.task not in TASK_KINDS:
            raise ValueError(f"there is no task kind {self.task!r}: {', '.join(TASK_KINDS)}")
        if self.adapter is not None and (self.task is None or not self.records_from):
            raise ValueError("an adapter needs task and records_from")
        if self.kind == "corpus" and self.task is None:
            raise ValueError("a corpus needs a task")
        if not self.places and not self.needs:
            raise ValueError("an entry needs places, or other entries")
        if self.name in self.needs:
            raise ValueError("needs itself")
        return self

    def places_from(self, mirror: str | None) -> tuple[Any, ...]:
        """Return the places to fetch from, those of a mirror by name.

        Raises:
            KeyError: there is no such mirror.
        """
        return self.places if mirror is None else self.mirrors[mirror]
