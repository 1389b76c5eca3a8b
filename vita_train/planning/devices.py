"""What plans know of the devices that train: memory, speed, links, and how much of each is
reached."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pydantic import Field

from vita_train.errors import RecipeError
from vita_train.gpus import TERA, bfloat16_flops
from vita_train.planning.plan import gpu_bytes
from vita_train.recipe.base import Strict
from vita_train.recipe.validation import validated
from vita_train.recipe.yaml_tree import parse_yaml

GIGA = 1e9


class Fractions(Strict):
    """Shares of what a device does at best that training reaches."""

    compute: float = Field(default=0.7, gt=0, le=1)
    """Of matrix products."""
    bandwidth: float = Field(default=0.8, gt=0, le=1)
    """Of its memory, where nothing is multiplied."""
    links: float = Field(default=0.75, gt=0, le=1)
    """Between devices."""
    memory: float = Field(default=0.95, gt=0, le=1)
    """Of its memory: the rest is the driver's, the communication library's and the kernels' own."""


class Device(Strict):
    """One kind of device."""

    memory: float = Field(gt=0)
    """GB."""
    bandwidth: float = Field(gt=0)
    """GB/s of its memory."""
    node_link: float = Field(default=32.0, gt=0)
    """GB/s in each direction between two devices of a node."""
    network: float = Field(default=12.5, gt=0)
    """GB/s in each direction between nodes, for each device."""
    bfloat16: float | None = Field(default=None, gt=0)
    """TFLOP/s of matrix products in half precision; none takes the data sheet's."""
    float32: float = Field(gt=0)
    """The same in float32."""
    launch: float = Field(default=5e-6, ge=0)
    """Seconds that a call takes whatever its size."""
    rounding: int = Field(default=512, ge=1)
    """Bytes to which the allocator rounds requests."""
    caches: bool = True
    """Whether the allocator keeps blocks, and can come to hold pieces of no use."""
    fractions: Fractions = Fractions()
    measured: bool = False
    """Whether fractions were measured, or are only assumed."""

    @property
    def usable(self) -> int:
        """Bytes that training may take."""
        return int(self.memory * GIGA * self.fractions.memory)

    def flops(self, half: bool) -> float:
        """Return the FLOP/s that matrix products reach."""
        peak = self.bfloat16 if half and self.bfloat16 else self.float32
        return peak * TERA * self.fractions.compute

    def link(self, *, between_nodes: bool) -> float:
        """Return the bytes a second that a device reaches in each direction to others."""
        rate = self.network if between_nodes else self.node_link
        return rate * GIGA * self.fractions.links


def plain_device(memory: int, *, gpu: bool = True) -> Device:
    """Return a device of which nothing is known but its bytes of memory; without ``gpu`` a
    processor, whose allocator keeps nothing back."""
    return Device(
        memory=memory / GIGA,
        bandwidth=1.0,
        float32=1.0,
        rounding=512 if gpu else 64,
        caches=gpu,
    )


class _Devices(Strict):
    devices: dict[str, Device]


def load_devices(path: Path | None = None) -> dict[str, Device]:
    """Return the devices that plans know, by name; those of a file beside them or in their place.

    Raises:
        RecipeError: the file cannot be read, or says something of a device that none has.
    """
    shipped = files("vita_train.planning").joinpath("devices.yaml").read_text(encoding="utf-8")
    devices = _parsed(shipped, "devices.yaml")
    if path is not None:
        try:
            devices |= _parsed(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"the file of devices cannot be read: {error}",
                code="VT-RECIPE-096",
                where=str(path),
                remedy="give a YAML file like the one in docs/how-to/laptop-to-cluster.md",
            ) from None
    return devices


def find_device(name: str, devices: dict[str, Device]) -> Device | None:
    """Return the device of a name such as ``h100-80``; None where nothing but its memory is known.

    Raises:
        RecipeError: the name does not end in a number.
    """
    if name in devices:
        return devices[name]
    size = gpu_bytes(name) / GIGA
    kind = name.rpartition("-")[0].lower()
    near = next((known for known in devices if kind and known.rpartition("-")[0] == kind), None)
    return devices[near].model_copy(update={"memory": size}) if near else None


def _parsed(text: str, where: str) -> dict[str, Device]:
    found = validated(_Devices, parse_yaml(text, where)).devices
    return {name: _with_peak(name, device) for name, device in found.items()}


def _with_peak(name: str, device: Device) -> Device:
    if device.bfloat16:
        return device
    peak = bfloat16_flops(name)
    return device.model_copy(update={"bfloat16": peak / TERA if peak else device.float32})
