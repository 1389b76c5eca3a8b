"""Speech to a WAV file while it is being made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from vita_train.errors import UserError


class SpokenFile:
    """A WAV file that gets its name when it is whole; an error leaves none.

    Attributes:
        seconds: of audio so far.

    Raises:
        UserError: it cannot be written, or there was no audio to write.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.path, self.sample_rate = path, sample_rate
        self.seconds = 0.0
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> SpokenFile:
        try:
            self._file = soundfile.SoundFile(
                str(self._partial), "w", self.sample_rate, 1, "PCM_16", format="WAV"
            )
        except (OSError, soundfile.SoundFileError) as error:
            raise self._write_error(error) from error
        return self

    def write(self, wave: NDArray[np.float32]) -> None:
        """Add audio (samples,), float; libsndfile cuts it at full scale."""
        try:
            self._file.write(wave)
        except (OSError, soundfile.SoundFileError) as error:
            raise self._write_error(error) from error
        self.seconds += len(wave) / self.sample_rate

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
            if kind is None and not self.seconds:
                raise UserError(
                    "the reply holds nothing that can be spoken",
                    code="VT-USE-049",
                    where=str(self.path),
                )
            if kind is None:
                os.replace(self._partial, self.path)
        except (OSError, soundfile.SoundFileError) as fault:
            raise self._write_error(fault) from fault
        finally:
            self._partial.unlink(missing_ok=True)

    def _write_error(self, error: Exception) -> UserError:
        return UserError(
            f"the audio cannot be written: {error}",
            code="VT-USE-050",
            where=str(self.path),
            remedy="give the path of a WAV file in a directory that can be written",
        )
