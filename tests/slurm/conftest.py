"""One SLURM for all tests of this folder; each leaves its queue empty."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.slurm_cluster import SlurmCluster, missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def whole_slurm() -> Iterator[SlurmCluster]:
    """A running cluster of two nodes, or a skip that says what to install."""
    if why := missing():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = SlurmCluster(Path(folder))
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def slurm(whole_slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster, which this test's process and its children speak to."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, whole_slurm.environment[name])
    yield whole_slurm
    for job in whole_slurm.ask("squeue", "--noheader", "--format=%i").split():
        whole_slurm.ask("scancel", job)
    whole_slurm.until(lambda: not whole_slurm.ask("squeue", "--noheader"), "an empty queue")
