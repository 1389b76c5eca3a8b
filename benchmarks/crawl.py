"""URLs that a crawl takes a processor second, beside a bare loop of the same HTTP client.

    python benchmarks/crawl.py [--urls 4000] [--hosts 64] [--side 320] [--rounds 3]

A server of its own process has JPEG files under addresses of 127.0.0.0/8, each a host with
robots.txt and the crawl's usual limits of rate and connections. The crawl (one worker) fetches,
decodes, shrinks, writes and hashes each; the bare loop asks for the same URLs with as many requests
at a time and keeps nothing. Each is a fresh process, in turns. Processor seconds are those of all
its processes, starting them included and the server left out. Prints one JSON object; ``wanted``
is 80 URLs a second.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpcore2 as httpcore
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vita_train.data.crawl.run import crawl
from vita_train.data.crawl.settings import CrawlSettings, Limits

WANTED = 80
#: Different files; more would only take the server's memory.
_FILES = 50


def pictures(side: int) -> list[bytes]:
    """Return JPEG files of 4 by 3, as detailed as photographs."""
    chance = np.random.default_rng(0)
    made = []
    for _ in range(_FILES):
        coarse = Image.fromarray(chance.integers(0, 255, (side // 8, side // 6, 3), np.uint8))
        data = io.BytesIO()
        coarse.resize((side * 4 // 3, side)).save(data, "JPEG")
        made.append(data.getvalue())
    return made


async def serve(hosts: int, side: int) -> None:
    """Serve the files on so many addresses until standard input ends; print the port."""
    files = pictures(side)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                name = request.split(b" ", 2)[1].strip(b"/").removesuffix(b".jpg")
                body = files[int(name) % _FILES] if name.isdigit() else b"User-agent: *\nAllow: /\n"
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    first = await asyncio.start_server(answer, _host(0))
    port = first.sockets[0].getsockname()[1]
    await asyncio.start_server(answer, [_host(number) for number in range(1, hosts)], port)
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


def _host(number: int) -> str:
    return f"127.0.{number // 200}.{number % 200 + 2}"


async def bare(urls: list[str], concurrency: int) -> None:
    """Ask for the URLs and read the answers."""
    slots = asyncio.Semaphore(concurrency)
    async with httpcore.AsyncConnectionPool(
        max_connections=concurrency, max_keepalive_connections=concurrency
    ) as pool:

        async def fetch(url: str) -> None:
            async with slots:
                answer = await pool.request("GET", url)
                assert answer.status == 200

        await asyncio.gather(*map(fetch, urls))


def run_side(side: str, source: Path, out: Path) -> None:
    """Do one side in this process."""
    if side == "bare":
        urls = [json.loads(line)["url"] for line in source.open()]
        asyncio.run(bare(urls, Limits().concurrency))
        return
    ledger = crawl([source], out, CrawlSettings(private=True), Limits())
    assert ledger.fetched == ledger.urls, ledger


def measure(side: str, source: Path, out: Path) -> dict[str, float]:
    """Do one side in a process of its own; return seconds of processors and of the wall."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, __file__, "--do", side, str(source), str(out)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall": time.perf_counter() - start,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--urls", type=int, default=4000)
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--side", type=int, default=320, help="pixels of the short side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--do", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.hosts, options.side))
        return
    if options.do:
        side, source, out = options.do
        run_side(side, Path(source), Path(out))
        return
    words = ["--serve", "--hosts", str(options.hosts), "--side", str(options.side)]
    spent: dict[str, list[dict[str, float]]] = {"crawl": [], "bare": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        assert server.stdout is not None
        port = int(server.stdout.readline())
        source = Path(folder) / "list.jsonl"
        with source.open("w") as stream:
            for number in range(options.urls):
                url = f"http://{_host(number % options.hosts)}:{port}/{number}.jpg"
                stream.write(json.dumps({"url": url, "text": "a picture"}) + "\n")
        for number in range(options.rounds):
            for side, taken in spent.items():
                taken.append(measure(side, source, Path(folder) / f"out-{number}"))
        server.communicate()
    seconds = {
        side: statistics.median(one["cpu"] for one in taken) for side, taken in spent.items()
    }
    rates = {side: round(options.urls / taken, 1) for side, taken in seconds.items()}
    print(
        json.dumps(
            {
                "urls": options.urls,
                "bytes_a_file": round(statistics.mean(map(len, pictures(options.side)))),
                "urls_a_cpu_second": rates,
                "wanted": WANTED,
                "crawl_beside_bare": round(seconds["bare"] / seconds["crawl"], 3),
                "rounds": {
                    side: [{unit: round(value, 1) for unit, value in one.items()} for one in taken]
                    for side, taken in spent.items()
                },
                "load": os.getloadavg()[0],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
