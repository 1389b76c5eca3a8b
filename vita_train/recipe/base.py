"""The strict base of everything a recipe holds, and the bounds of its numbers.

Every number of a recipe has a lower and an upper bound, so that what cannot be right is refused
when the recipe is read, with its line, and not by whatever meets it first. Upper bounds lie far
above anything sensible.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A frozen pydantic model that refuses unknown keys, so that a misspelt setting never passes
    unnoticed, and numbers that are not finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


#: Most characters of a name that becomes a folder, a part of a key and of Kubernetes' objects.
MAX_NAME = 63

#: Size of a part of the model: a width, a number of layers, heads or entries.
Size = Annotated[int, Field(ge=1, le=2**24)]
#: A size that may be 0, where the part is left out.
OptionalSize = Annotated[int, Field(ge=0, le=2**24)]
#: How many there are to take, make or wait for: steps, records, samples.
Count = Annotated[int, Field(ge=1, le=10**9)]
#: A count that may be 0: never, or none.
OptionalCount = Annotated[int, Field(ge=0, le=10**9)]
#: Machines, processes and threads.
Workers = Annotated[int, Field(ge=1, le=100_000)]
#: Share of what passes that is dropped while training.
Dropout = Annotated[float, Field(ge=0, lt=1)]
#: A share of a whole.
Share = Annotated[float, Field(ge=0, le=1)]
#: Samples a second of audio.
SampleRate = Annotated[int, Field(ge=1000, le=768_000)]
#: A time to wait or to run, at most some three years.
Seconds = Annotated[float, Field(gt=0, le=1e8)]
#: What a norm or an optimizer adds so as not to divide by zero.
Epsilon = Annotated[float, Field(gt=0, le=1)]
#: Peak learning rate. What is not to train is left out of the map.
Rate = Annotated[float, Field(gt=0, le=100)]
#: How often each record is taken in an epoch. A dataset that is not wanted is left out.
MixWeight = Annotated[float, Field(gt=0, le=1e6)]


def _is_server(url: str) -> str:
    parts = urlsplit(url)  # raises ValueError too, as the port does
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("is not the URL of a server: write http(s)://host or http(s)://host:port")
    # % would be an escape, which servers and libraries read in different ways
    if parts.query or parts.fragment or re.search(r"[\s%]", url):
        raise ValueError("is more than the URL of a server: write http(s)://host:port")
    return url


#: URL of an S3 server.
Endpoint = Annotated[str, AfterValidator(_is_server)]
#: What computes attention.
Attention = Literal["auto", "varlen", "flash", "flex", "sdpa"]
#: A limit for a measured value.
MeasureBound = Annotated[float, Field(ge=-1e9, le=1e9)]
