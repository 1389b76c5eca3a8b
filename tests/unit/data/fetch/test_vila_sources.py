"""V1: the chats of stage 1 from a hub of our own, as VILA fetches them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.fake_hub import FakeHub
from tests.helpers.hostile_http import Fault, HostileServer
from tests.unit.data.fetch.conftest import QUICK
from vita_train.data.catalogue.expected import take_inventory
from vita_train.data.catalogue.load import load_catalogue
from vita_train.data.fetch.run import fetch
from vita_train.data.sources.fetch import fetch as fetch_source
from vita_train.data.sources.reading import Row, read_records
from vita_train.recipe.sources import CatalogueSource
from vita_train.storage.digest import sha256_file

REPO, CHATS = "datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K", 12


def test_v1_chats_and_images_come_whole_after_a_break(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    archive, chats = io.BytesIO(), []
    with zipfile.ZipFile(archive, "w") as images:
        for number in range(CHATS):
            data = io.BytesIO()
            Image.new("RGB", (9, 9), (number, 0, 0)).save(data, "JPEG")
            images.writestr(f"GCC_{number}.jpg", data.getvalue())
            turns = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "It."}]
            chats.append({"id": str(number), "image": f"GCC_{number}.jpg", "conversations": turns})
    text = json.dumps(chats).encode()
    world = FakeHub(server, token="")
    world.add(REPO, {"chat.json": text, "images.zip": archive.getvalue()})
    place = f"/{REPO}/cdn/{'a' * 40}/images.zip"
    server.faults[place] = [Fault(cut=700), Fault(status=503)]
    catalogue = load_catalogue()
    entry, to = catalogue["llava-cc3m-595k"], tmp_path / "data"
    fetch([entry], to, catalogue=catalogue, limits=QUICK, accept_licence=True)
    assert server.sent(place) == len(archive.getvalue())  # nothing came twice
    lock = json.loads((to / "fetch.lock.json").read_text())
    files = lock["sources"][entry.name]["files"]
    assert set(files) == {"llava_cc3m/chat.json", "llava_cc3m/images.zip"}
    for name, content in (("chat.json", text), ("images.zip", archive.getvalue())):
        assert files[f"llava_cc3m/{name}"]["bytes"] == len(content)
    assert files["llava_cc3m/chat.json"]["sha256"] == sha256_file(to / "llava_cc3m/chat.json")
    assert entry.expected is not None
    assert (entry.expected.records, entry.records) == (595_000, 595_000)
    (fault,) = take_inventory(entry.expected, to).faults
    assert f"{CHATS} records" in fault
    real = entry.expected.model_copy(update={"records": CHATS})
    assert take_inventory(real, to).faults == ()
    fetch_source(
        CatalogueSource(name=entry.name, folder=str(to)), tmp_path / "out", seed=0, workers=1
    )
    roots = {"images": to / "llava_cc3m/images"}
    rows = list(read_records(to / "llava_cc3m/chat.json", roots))
    assert len(rows) == CHATS
    for row in rows:
        assert isinstance(row, Row)
        for image in row.images:
            Image.open(image.path(roots)).load()
