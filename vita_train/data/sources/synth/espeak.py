"""The speech synthesiser espeak-ng, driven through its C interface.

The library keeps state between utterances that nothing resets (the phase of the voice's flutter,
for one), so the same sentence differs by a few samples after different histories. What is
deterministic is a whole history: a fresh process that speaks the same list. ``render`` therefore
works in blocks, a process each.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from vita_train.errors import UserError
from vita_train.recipe.sources import SynthWorld

_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_RATE, _PITCH = 1, 3
_UTF8 = 1
_AT_CHARACTER = 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Synthesiser:
    """espeak-ng, initialised once; one instance a process."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            UserError: the package that brings it is not installed, or the library does not start.
        """
        require_synthesiser()
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._pieces: list[NDArray[np.int16]] = []
        # Kept as an attribute: the library holds a bare pointer to it.
        self._callback = _Callback(self._collect)
        data = espeakng_loader.get_data_path().encode()
        self.rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
        if self.rate <= 0:
            raise UserError(
                "the speech synthesiser espeak-ng does not start",
                code="VT-USE-038",
                where=espeakng_loader.get_data_path(),
                remedy="install the extra again: pip install --force-reinstall 'vita-train[demo]'",
            )
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, *, voice: str, rate: int, pitch: int) -> NDArray[np.int16]:
        """Return the samples (n,) of a text, at ``self.rate``.

        Args:
            text: what to say.
            voice: espeak-ng voice name, such as ``en-us+m3``.
            rate: words a minute.
            pitch: 0 to 100.

        Raises:
            UserError: the library does not know the voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(
                f"espeak-ng has no voice {voice!r}",
                code="VT-USE-039",
                remedy="install espeakng-loader 0.2.4 or later 0.2.x",
            )
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._library.espeak_ng_SetRandSeed(1)
        self._pieces = []
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, _AT_CHARACTER, 0, _UTF8, None, None)
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], number: int, events: int) -> int:
        if samples and number:
            self._pieces.append(np.ctypeslib.as_array(samples, (number,)).copy())
        return 0


def check_synth(source: SynthWorld) -> str:
    """Say what a synthetic world needs and has.

    Raises:
        UserError: it speaks, and the synthesiser is not installed.
    """
    if not source.speaks:
        return "synthetic world, without speech"
    require_synthesiser()
    return "synthetic world, speech synthesiser found"


def require_synthesiser() -> None:
    """Check that the synthesiser is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import espeakng_loader  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the synthetic world needs the speech synthesiser espeak-ng, which is not installed",
            code="VT-USE-040",
            remedy="install the demo extra: pip install 'vita-train[demo]'",
        ) from error
