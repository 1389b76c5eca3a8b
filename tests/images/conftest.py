"""The images, built once for all tests of this folder that run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.images.engine import Engine, missing


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Something that builds and runs images, or a skip that says what is missing."""
    if why := missing():
        pytest.skip(why)
    return Engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def launcher_image(engine: Engine) -> str:
    """The launcher's image."""
    return engine.build_launcher()


@pytest.fixture(scope="session")
def data_image(engine: Engine) -> str:
    """The data image."""
    return engine.build_data()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A folder that the images' user may write."""
    folder = tmp_path / "volume"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
