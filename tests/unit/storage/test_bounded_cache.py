"""The bounded cache of a node: never above its limit, never a wrong or half file, whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import UserError
from vita_train.storage.bounded_cache import BoundedCache

SIZE = 1000


def content(name: str, size: int = SIZE) -> bytes:
    return random.Random(name).randbytes(size)


def take(cache: BoundedCache, name: str, to: Path) -> bool:
    """Take a file, look at it and leave it."""
    was_here = cache.take(name, to, lambda: content(name))
    assert to.read_bytes() == content(name)
    to.unlink()
    return was_here


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own" / "link"


def test_a_file_is_fetched_once(tmp_path: Path, own: Path) -> None:
    cache = BoundedCache(tmp_path / "cache", 100 * SIZE)
    assert [take(cache, name, own) for name in ("ab", "cd", "ab")] == [False, False, True]
    assert cache.has("ab")
    cache.drop("ab")
    assert not cache.has("ab")
    assert take(cache, "ab", own) is False


def test_the_limit_holds_and_what_was_used_last_stays(tmp_path: Path, own: Path) -> None:
    cache = BoundedCache(tmp_path / "cache", 20 * SIZE)
    take(cache, "kept", own)
    for number in range(200):
        take(cache, f"{number:04d}", own)
        time.sleep(0.001)  # times of files differ
        assert take(cache, "kept", own)
        assert held(cache.folder) <= cache.limit
    assert cache.has("0199")
    assert not cache.has("0100")


def test_a_reader_keeps_what_is_evicted_under_it(tmp_path: Path, own: Path) -> None:
    cache = BoundedCache(tmp_path / "cache", 5 * SIZE)
    first = own.with_name("first")
    cache.take("0000", first, lambda: content("0000"))
    for number in range(1, 20):
        take(cache, f"{number:04d}", own)
    assert not cache.has("0000")
    assert first.read_bytes() == content("0000")


def test_a_file_as_large_as_the_cache_is_refused(tmp_path: Path, own: Path) -> None:
    cache = BoundedCache(tmp_path / "cache", SIZE)
    with raises_code(UserError, "VT-USE-235"):
        cache.take("ab", own, lambda: content("ab"))
    assert held(cache.folder) == 0


def test_a_note_that_a_kill_cut_short_is_written_again(tmp_path: Path, own: Path) -> None:
    cache = BoundedCache(tmp_path / "cache", 10 * SIZE)
    for number in range(8):
        take(cache, f"{number:04d}", own)
    for wrong in ("", "0"):
        (cache.folder / "bytes").write_text(wrong)
        for number in range(30):
            take(cache, f"{wrong}{number:04d}", own)
        assert held(cache.folder) <= 2 * cache.limit
    for number in range(30):
        take(cache, f"x{number:04d}", own)
    assert held(cache.folder) <= cache.limit


def use(folder: Path, own: Path, seed: int) -> None:
    """Take files without end."""
    own.mkdir()
    cache, chance = BoundedCache(folder, 20 * SIZE), random.Random(seed)
    while True:
        take(cache, f"{chance.randrange(60):04d}", own / "link")


def test_readers_that_are_killed_leave_a_sound_cache(tmp_path: Path, own: Path) -> None:
    fork = multiprocessing.get_context("fork")
    folder = tmp_path / "cache"
    for turn in range(6):
        readers = [
            fork.Process(target=use, args=(folder, tmp_path / f"{turn}-{number}", turn))
            for number in range(3)
        ]
        for reader in readers:
            reader.start()
        time.sleep(0.1)
        for reader in readers:
            assert reader.is_alive()
            os.kill(reader.pid or 0, signal.SIGKILL)
            reader.join()
    cache = BoundedCache(folder, 20 * SIZE)
    for number in range(100):
        take(cache, f"{number:04d}", own)
    assert held(folder) <= cache.limit
    assert [path for path in folder.glob("??/.*")] == []
