"""The kinds of data sources, and their settings.

A package outside this one adds a kind by calling `register_source` from its plugin
(`vita_train.plugins`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from vita_train.plugins import Registry
from vita_train.recipe.base import Count, Endpoint, Strict

#: Datasets of the synthetic world: those that are heard, and all.
_HEARD = frozenset({"asr", "speech_qa", "negative", "tts"})
SYNTH_DATASETS = _HEARD | {
    "recall",
    "lookup",
    "caption",
    "textqa",
    "instruct",
    "dialogue",
    "vqa",
    "multi_image",
    "video",
}


class SynthWorld(Strict):
    """What a synthetic world holds, whichever way it comes."""

    kind: str
    scale: float = Field(default=1.0, gt=0, le=1000)
    """Multiplies the number of training records of every dataset."""
    test_size: Count = 400
    """Records per dev and test slice (before scale; never scaled)."""
    datasets: tuple[str, ...] = ()
    """Those that are made; all where none is named."""

    @property
    def speaks(self) -> bool:
        """Whether anything in it is heard, for which it needs a synthesiser."""
        return not self.datasets or not _HEARD.isdisjoint(self.datasets)

    @field_validator("datasets")
    @classmethod
    def _known(cls, datasets: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(datasets) - SYNTH_DATASETS):
            raise ValueError(
                f"the synthetic world has no dataset {unknown[0]!r}; it has "
                f"{', '.join(sorted(SYNTH_DATASETS))}"
            )
        return datasets

    @model_serializer(mode="wrap")
    def _without_all(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the choice where there is none: digests of such worlds know nothing of it."""
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name != "datasets" or value}


class SynthSource(SynthWorld):
    """The embedded synthetic world: images of shapes, a grammar of sentences, synthesised
    speech."""

    kind: Literal["synth"] = "synth"


class SynthWebSource(Strict):
    """Documents and image-text pairs of the synthetic world, crawled from a web that is served on
    this machine: VILA's way from annotations to records."""

    kind: Literal["synth_web"] = "synth_web"
    documents: Count = 600
    """Training documents before the crawl, one in twenty of which has a dead link."""
    pairs: Count = 1200
    """Training pairs before the better half is selected."""
    test_size: Count = 80
    """The same for each of dev and test."""


class SynthArchivesSource(SynthWorld):
    """The synthetic world in archives that are served on this machine, fetched and unpacked:
    AuroraCap's way from a release to records."""

    kind: Literal["synth_archives"] = "synth_archives"
    parts: Annotated[int, Field(ge=1, le=1000)] = 3
    """That the archive of the media is cut into."""


class StampsSource(Strict):
    """Images, captions and recorded descriptions of the Debian package tuxpaint-stamps-default."""

    kind: Literal["stamps"] = "stamps"
    package: str | None = None
    """Path of a .deb already fetched; none asks apt-get for it."""
    language: str = "en"
    """Language of the captions, as the package writes it (``en``, ``fr``, ``pt_BR``)."""
    recordings: tuple[str, ...] = ()
    """Languages whose recorded descriptions are used; none uses all there are."""


class RecordsSource(Strict):
    """The user's own records: a registry file naming datasets, splits, record files and media
    roots."""

    kind: Literal["records"] = "records"
    registry: str
    """Path of the registry file (JSON or YAML), or its s3:// URI. Relative to the recipe's file if
    it is there, else to the working folder. Record files and roots in it may be URIs too."""
    endpoint: Endpoint | None = None
    """S3 endpoint of what lies in a store, when it is not AWS; credentials come from the
    environment."""
    image_folder: str | None = None
    """Folder or s3:// URI that takes the place of every root but that of audio."""


class CatalogueSource(Strict):
    """A public corpus of the catalogue, as `vita-train data fetch` brought it, or the run itself
    fetches it."""

    kind: Literal["catalogue"] = "catalogue"
    name: str
    """Name of its entry; `vita-train data list` shows all."""
    folder: str | None = None
    """Folder that was fetched to; none takes VITA_TRAIN_DATA."""
    fetch: bool = False
    """Whether the run's first step fetches what is not there; where no folder is named, into the
    run's own, which travels with it to other machines."""
    accept_licence: bool = False
    """Accept the licences of what is fetched, which `vita-train data show` names."""

    @model_validator(mode="after")
    def _accepts_what_is_fetched(self) -> CatalogueSource:
        if self.accept_licence and not self.fetch:
            raise ValueError("accept_licence is for what the run fetches: set fetch: true as well")
        return self


@dataclass(frozen=True)
class SourceKind:
    """One kind of source."""

    spec: type[Strict]
    """Its settings; a field ``kind`` of a literal type with a default tells them from others."""
    build: str
    """``package.module:function``, called as ``build(spec, folder, seed=seed, workers=workers)``:
    brings the data to the folder and returns their `vita_train.data.sources.registry.Registry`,
    with paths relative to ``folder/registry.json``."""
    check: str = ""
    """``package.module:function``, called with the settings before anything runs: says what was
    found, or raises `vita_train.errors.VitaError`. Empty where there is nothing to look at."""
    keeps: str = ""
    """Name of what stays in its folder when a fetch is ended, and from which ``build`` with the
    same settings goes on. Empty where it begins anew."""


SOURCES: Registry[SourceKind] = Registry("kind of data source")


def register_source(kind: SourceKind) -> None:
    """Add a kind of source.

    Raises:
        VitaError: its name is taken.
    """
    SOURCES.add(str(kind.spec.model_fields["kind"].default), kind)


#: Folder of what a source of the catalogue downloads, below its own.
DOWNLOADED = "fetched"

_OURS = "vita_train.data"
for _spec, _build, _check, _keeps in (
    (SynthSource, "sources.synth.build:build_synth", "sources.synth.espeak:check_synth", ""),
    (StampsSource, "sources.stamps:build_stamps", "sources.debian:check_stamps", ""),
    (RecordsSource, "sources.own:adopt_records", "sources.own:check_records", ""),
    (
        CatalogueSource,
        "adapters.build:build_catalogue",
        "adapters.build:check_catalogue",
        DOWNLOADED,
    ),
    (SynthWebSource, "synth_web:build_web", "", ""),
    (SynthArchivesSource, "synth_archives:build_archives", "sources.synth.espeak:check_synth", ""),
):
    register_source(
        SourceKind(
            _spec,
            f"{_OURS}.{_build}",
            f"{_OURS}.{_check}" if _check else "",
            _keeps,
        )
    )
