"""The crawler against a web of our own: good, dead, slow, cut, lying, huge and redirecting URLs."""

from __future__ import annotations

import datetime
import hashlib
import io
import ipaddress
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from tests.helpers.errors import raises_code
from tests.helpers.hostile_http import Fault, HostileServer, hostile_http
from vita_train.data.crawl.addresses import is_public
from vita_train.data.crawl.rows import Image as ImageFile
from vita_train.data.crawl.rows import merged
from vita_train.data.crawl.run import crawl
from vita_train.data.crawl.settings import CrawlSettings, Limits, Lost, Reason
from vita_train.data.crawl.target import parse
from vita_train.errors import DataError, UserError

SETTINGS = CrawlSettings(private=True, max_bytes=200_000)
LIMITS = Limits(concurrency=16, rate=1e6, connect=2, total=2, backoff=0.01, longest_wait=0.05)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def web() -> Iterator[HostileServer]:
    with hostile_http() as server:
        yield server


def write_list(path: Path, rows: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def hostile_urls(web: HostileServer) -> list[tuple[str, Reason | None]]:
    """Fill a web; return its URLs with what must become of each."""
    good = picture((200, 10, 10))
    web.files = {
        "/good.png": good,
        "/tall.png": picture((0, 0, 200), (500, 1000)),
        "/wide.png": picture((0, 200, 0), (1001, 500)),
        "/with spaces.png": good,
        "/page.html": b"<html>no image</html>",
        "/empty.png": b"",
        "/huge.png": bytes(200_001),
        "/lies.png": good,
        "/cut.png": good,
        "/slow.png": good,
        "/half.png": good[: len(good) // 2],
        "/again.png": good,
        "/private/good.png": good,
        "/robots.txt": b"User-agent: *\nDisallow: /private/\n",
    }
    web.faults = {
        "/lies.png": [Fault(lie=50)] * 3,
        "/cut.png": [Fault(cut=20)] * 3,
        "/slow.png": [Fault(delay=5)],
        "/again.png": [Fault(status=503, headers={"Retry-After": "0"}), Fault(cut=9)],
        "/error.png": [Fault(status=500)] * 3,
        "/forbidden.png": [Fault(status=403)],
        "/moved.png": [Fault(status=302, headers={"Location": "/good.png"})],
        "/loop.png": [Fault(status=301, headers={"Location": "/loop.png"})] * 9,
        "/out.png": [Fault(status=302, headers={"Location": "ftp://elsewhere/x.png"})],
    }
    port = web.url.rpartition(":")[2]
    return [
        (f"{web.url}/good.png", None),
        (f"{web.url}/good.png?size=large&name=a/b.c", None),
        (f"http://localhost:{port}/good.png", None),
        (f"{web.url}/tall.png", None),
        (f"{web.url}/wide.png", None),
        (f"{web.url}/with spaces.png", Reason.GONE),  # asked for as %20, which is another name here
        (f"{web.url}/page.html", Reason.NOT_AN_IMAGE),
        (f"{web.url}/empty.png", Reason.NOT_AN_IMAGE),
        (f"{web.url}/huge.png", Reason.TOO_LARGE),
        (f"{web.url}/lies.png", Reason.CUT_OFF),
        (f"{web.url}/cut.png", Reason.CUT_OFF),
        (f"{web.url}/slow.png", Reason.TOO_SLOW),
        (f"{web.url}/half.png", Reason.CUT_OFF),
        (f"{web.url}/again.png", None),
        (f"{web.url}/error.png", Reason.SERVER),
        (f"{web.url}/gone.png", Reason.GONE),
        (f"{web.url}/forbidden.png", Reason.REFUSED),
        (f"{web.url}/moved.png", None),
        (f"{web.url}/loop.png", Reason.REDIRECTS),
        (f"{web.url}/out.png", Reason.BAD_URL),
        (f"{web.url}/private/good.png", Reason.ROBOTS),
        ("http://127.0.0.1:1/x.png", Reason.UNREACHABLE),
        ("http://no-such-host.invalid/x.png", Reason.UNKNOWN_HOST),
        ("file:///etc/passwd", Reason.BAD_URL),
        ("http://[broken/x.png", Reason.BAD_URL),
    ]


def test_v3_v9_each_url_is_an_image_or_has_its_reason_and_order_is_kept(
    web: HostileServer, tmp_path: Path
) -> None:
    urls = hostile_urls(web)
    source = write_list(
        tmp_path / "a.jsonl", [{"id": i, "url": u} for i, (u, _) in enumerate(urls)]
    )
    out = tmp_path / "out"

    ledger = crawl([source], out, SETTINGS, LIMITS)

    lost = {line["row"]: line["reason"] for line in lines(out / "a.lost.jsonl") if "image" in line}
    assert lost == {i: reason for i, (_, reason) in enumerate(urls) if reason}
    kept = lines(out / "a.jsonl")
    assert [row["id"] for row in kept] == [i for i, (_, reason) in enumerate(urls) if not reason]
    assert ledger.urls == len(urls) == ledger.fetched + ledger.lost.total()
    assert ledger.rows == len(urls) == ledger.kept + ledger.dropped.total()
    assert ledger.lost.keys() <= set(Reason)
    sizes = {}
    for row in kept:
        data = (out / "media" / str(row["image"])).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["image_sha256"]
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        sizes[row["id"]] = image.size
    assert sizes[0] == (40, 30)  # never enlarged
    assert sizes[3] == (336, 672)
    assert sizes[4] in {(672, 336), (673, 336)}
    assert len(list((out / "media" / "a").iterdir())) == len(kept)


def test_v3_what_is_done_is_not_fetched_again_and_a_killed_shard_ends_the_same(
    web: HostileServer, tmp_path: Path
) -> None:
    web.files = {f"/{i}.png": picture((i, 0, 0)) for i in range(12)}
    lists = [
        write_list(
            tmp_path / "lists" / f"{part}.jsonl",
            [{"url": f"{web.url}/{part * 4 + i}.png"} for i in range(4)],
        )
        for part in range(3)
    ]
    crawl(lists, tmp_path / "whole", SETTINGS, LIMITS)
    whole = digests(tmp_path / "whole")
    before = len(web.requests)
    crawl(lists, tmp_path / "whole", SETTINGS, LIMITS)
    assert len(web.requests) == before

    out = tmp_path / "killed"
    crawl(lists, out, SETTINGS, LIMITS, shards=(0, 2))
    (out / "1.done.json").unlink()  # as a kill before the end leaves it
    (out / "2.jsonl.part").write_text("half a li")
    (out / "media" / "2.part").mkdir()
    (out / "media" / "2.part" / "00000000-0000.raw").write_bytes(b"half")
    before = len(web.requests)
    crawl(lists, out, SETTINGS, LIMITS)
    assert digests(out) == whole
    assert not [r for r in web.requests[before:] if r.path in {f"/{i}.png" for i in range(4)}]


def test_v4_ranges_on_two_workers_make_what_one_makes(web: HostileServer, tmp_path: Path) -> None:
    web.files = {f"/{i}.png": picture((i, 0, 0)) for i in range(6)}
    for part in range(3):
        urls = [{"url": f"{web.url}/{part * 2 + i}.png"} for i in range(2)]
        write_list(tmp_path / "lists" / f"{part}.jsonl", urls)
    lists = [tmp_path / "lists"]
    crawl(lists, tmp_path / "one", SETTINGS, LIMITS)
    crawl(lists, tmp_path / "two", SETTINGS, LIMITS, shards=(0, 1))
    crawl(lists, tmp_path / "two", SETTINGS, LIMITS, shards=(1, 3), workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    for wrong in ((0, 4), (2, 2), (3, 1)):
        with pytest.raises(UserError):
            crawl(lists, tmp_path / "two", SETTINGS, LIMITS, shards=wrong)


def document(web: HostileServer, names: list[str]) -> dict[str, object]:
    return {
        "text_list": ["a", "b"],
        "image_info": [
            {"image_name": name, "raw_url": f"{web.url}/{name}", "matched_text_index": 1}
            for name in names
        ],
        "similarity_matrix": [[i, i] for i in range(len(names))],
    }


def test_v5_v6_documents_keep_all_images_or_are_dropped_and_each_image_is_its_own(
    web: HostileServer, tmp_path: Path
) -> None:
    colours = {f"{i}.png": (i * 20, 255 - i * 20, 128) for i in range(12)}
    web.files = {f"/{name}": picture(colour) for name, colour in colours.items()}
    names = list(colours)
    rows = [document(web, names), document(web, ["3.png", "dead.png", "5.png"]), document(web, [])]
    source = write_list(tmp_path / "docs.jsonl", [*rows, "no document"])

    strict = crawl([source], tmp_path / "all", CrawlSettings("mmc4", private=True), LIMITS)
    assert strict.dropped == {Reason.TOO_FEW: 1, Reason.NO_URL: 1, Reason.BAD_ROW: 1}
    (kept,) = lines(tmp_path / "all" / "docs.jsonl")
    assert kept["source_row"] == 0
    for entry in kept["image_info"]:  # type: ignore[attr-defined]
        pixel = Image.open(tmp_path / "all" / "media" / entry["image"]).getpixel((9, 9))
        wanted = colours[entry["image_name"]]
        assert all(abs(a - b) <= 4 for a, b in zip(pixel, wanted, strict=True))

    some = CrawlSettings("mmc4", at_least=2, private=True)
    assert crawl([source], tmp_path / "some", some, LIMITS).kept == 2
    second = lines(tmp_path / "some" / "docs.jsonl")[1]
    assert [entry["image_name"] for entry in second["image_info"]] == ["3.png", "5.png"]
    assert second["similarity_matrix"] == [[0, 0], [2, 2]]


@pytest.mark.parametrize("count", [1, 12, 1001])
def test_v6_images_stay_with_their_entries_however_many(count: int) -> None:
    row = {"image_info": [{"image_name": str(index)} for index in range(count)]}
    images = [ImageFile(f"{index}.jpg", "") for index in range(count)]
    kept = merged(row, images, 5, CrawlSettings("mmc4"))
    assert [entry["image"] for entry in kept["image_info"]] == [
        f"{entry['image_name']}.jpg" for entry in kept["image_info"]
    ]
    assert len(kept["image_info"]) == count


def test_parquet_lists_and_the_column_of_urls(web: HostileServer, tmp_path: Path) -> None:
    web.files = {"/a.png": picture((1, 2, 3))}
    table = pa.table({"id": [7, 8], "link": [f"{web.url}/a.png", None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    settings = CrawlSettings(column="link", private=True)
    ledger = crawl([tmp_path / "rows.parquet"], tmp_path / "out", settings, LIMITS)
    assert ledger.dropped == {Reason.NO_URL: 1}
    assert [row["id"] for row in lines(tmp_path / "out" / "rows.jsonl")] == [7]


def test_other_settings_do_not_mix_with_what_is_there(web: HostileServer, tmp_path: Path) -> None:
    web.files = {"/a.png": picture((1, 2, 3))}
    source = write_list(tmp_path / "a.jsonl", [{"url": f"{web.url}/a.png"}])
    crawl([source], tmp_path / "out", SETTINGS, LIMITS)
    with pytest.raises(UserError):
        crawl([source], tmp_path / "out", CrawlSettings(private=True, quality=90), LIMITS)


def test_nothing_but_a_crawl_is_replaced(web: HostileServer, tmp_path: Path) -> None:
    source = write_list(tmp_path / "a.jsonl", [{"url": f"{web.url}/a.png"}])
    photo = tmp_path / "out" / "media" / "a" / "mine.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"precious")
    before = source.read_bytes()
    for out in (tmp_path, tmp_path / "out"):
        with raises_code(DataError, "VT-DATA-132"):
            crawl([source], out, SETTINGS, LIMITS)
    assert photo.read_bytes() == b"precious"
    assert source.read_bytes() == before


def test_private_addresses_are_refused_also_after_a_redirect(
    web: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files = {"/a.png": picture((1, 2, 3))}
    port = web.url.rpartition(":")[2]
    source = write_list(tmp_path / "a.jsonl", [{"url": f"http://{h}:{port}/a.png"} for h in (
        "127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]",
    )])  # fmt: skip
    ledger = crawl([source], tmp_path / "out", CrawlSettings(), LIMITS)
    assert ledger.lost == {Reason.PRIVATE: 6}
    assert not web.requests

    real = is_public  # the web of this test counts as public by its name, its redirect does not
    monkeypatch.setattr(
        "vita_train.data.crawl.addresses.is_public", lambda a: a == "127.0.0.1" or real(a)
    )
    web.faults = {"/a.png": [Fault(status=302, headers={"Location": "http://10.0.0.1/b.png"})]}
    source = write_list(tmp_path / "b.jsonl", [{"url": f"{web.url}/a.png"}])
    assert crawl([source], tmp_path / "out", CrawlSettings(), LIMITS).lost == {Reason.PRIVATE: 1}


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_v9_waiting_for_a_turn_is_not_on_the_clock(web: HostileServer, tmp_path: Path) -> None:
    web.files = {f"/{i}.png": picture((i, 0, 0)) for i in range(8)}
    web.chaos = lambda count, path: Fault(delay=0.3)
    source = write_list(tmp_path / "a.jsonl", [{"url": f"{web.url}/{i}.png"} for i in range(8)])
    limits = Limits(concurrency=8, per_host=1, rate=1e6, total=1.0, tries=1)
    ledger = crawl([source], tmp_path / "out", CrawlSettings(private=True, robots=False), limits)
    assert ledger.fetched == 8


def test_hosts_are_asked_at_their_rate(web: HostileServer, tmp_path: Path) -> None:
    web.files = {f"/{i}.png": picture((i, 0, 0)) for i in range(6)}
    times: list[float] = []

    def note(count: int, path: str) -> None:
        import time

        times.append(time.monotonic())

    web.chaos = note
    source = write_list(tmp_path / "a.jsonl", [{"url": f"{web.url}/{i}.png"} for i in range(6)])
    limits = Limits(concurrency=8, rate=10)
    crawl([source], tmp_path / "out", CrawlSettings(private=True, robots=False), limits)
    assert max(times) - min(times) >= 0.45


def test_urls_are_taken_apart_without_surprises() -> None:
    target = parse(" HTTPS://Bücher.example:443/ä b?x=1&y=%20#part")
    assert (target.netloc, target.path) == ("xn--bcher-kva.example", "/%C3%A4%20b?x=1&y=%20")
    with pytest.raises(Lost):
        target.joined("http://bücher.example/")  # from https to http
    for wrong in ("", "x.png", "http://", "http://a:99999/", "javascript:alert(1)", "http://a b/"):
        with pytest.raises(Lost):
            parse(wrong)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    for name in ("ours", "others"):
        write_certificate(tmp_path / f"{name}.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ours.pem")
    with hostile_http(context) as web:
        web.files = {"/a.png": picture((1, 2, 3))}
        source = write_list(tmp_path / "a.jsonl", [{"url": f"{web.url}/a.png"}])
        for name, lost in (("ours", {}), ("others", {Reason.INSECURE: 1})):
            settings = CrawlSettings(private=True, ca_file=str(tmp_path / f"{name}.pem"))
            assert crawl([source], tmp_path / name, settings, LIMITS).lost == lost


def write_certificate(path: Path) -> None:
    """Write a key and a certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
