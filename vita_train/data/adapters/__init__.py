"""From the files of public corpora to records and a registry.

An adapter is a function of an `Input`; a corpus names one in its catalogue entry. A package outside
this one adds an adapter by calling `register_adapter` from its plugin (`vita_train.plugins`).
"""

from __future__ import annotations

from vita_train.plugins import Registry

#: ``package.module:function`` by name.
ADAPTERS: Registry[str] = Registry("corpus adapter")


def register_adapter(name: str, function: str) -> None:
    """Add an adapter: ``function(input) -> Dataset`` as ``package.module:function``.

    Raises:
        VitaError: its name is taken.
    """
    ADAPTERS.add(name, function)


for _name in (
    "aishell1",
    "aishell3",
    "coco_captions",
    "gigaspeech",
    "hifi_tts",
    "lhotse",
    "librispeech",
    "libritts",
    "ljspeech",
    "magicdata",
    "records",
    "vctk",
):
    register_adapter(_name, f"vita_train.data.adapters.{_name}:adapt")
