"""Fixtures of the whole suite. What tests share lies in `tests.helpers`."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before torch is imported: small models are many times slower on several threads that wait for each
# other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.helpers.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, describe, serve_s3


def pytest_report_header() -> str:
    return describe()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.verbosity < 0:  # a quiet run shows no header
        terminalreporter.write_line(describe())


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server on this machine."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test's process, and those it starts, the server's credentials and nobody else's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
