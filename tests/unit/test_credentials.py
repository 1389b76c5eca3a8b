"""Credentials inside URLs are refused wherever a URL is taken, and are in no message."""

from __future__ import annotations

import pytest

from tests.helpers.errors import raises_code
from vita_train.credentials import holds_credentials, without_credentials
from vita_train.errors import UserError
from vita_train.pipeline.server import PipelineServer
from vita_train.recipe.load import load_recipe
from vita_train.storage.factory import open_file, open_store
from vita_train.storage.s3 import S3Store

SECRET = "PASSW0RD"
URLS = [
    f"http://user:{SECRET}@127.0.0.1:1",
    f"https://{SECRET}@host/x",
    f"s3://key:{SECRET}@bucket/x",
    f"https://host/x?X-Amz-Signature={SECRET}",
    f"http://host/?token={SECRET}&b=1",
    f"http://a:b@{SECRET}@h/x",
    f"https://host/x?sig={SECRET}",
]
#: Without a scheme: only where they are all of the text.
BARE = [f"user:{SECRET}@127.0.0.1:9000", f"//user:{SECRET}@host/x", f"http:user:{SECRET}@host"]


@pytest.mark.parametrize("url", URLS)
def test_they_are_seen_and_taken_out(url: str) -> None:
    assert holds_credentials(url)
    assert SECRET not in without_credentials(f"at {url}, and {url}")
    assert SECRET not in str(UserError(f"no answer from {url}", where=url, remedy=f"look at {url}"))


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/a@b", "https://host/x?page=2#a@b", "runs/a@b", "file:///a/b@c", "a: me@host b"],
)
def test_what_has_none_is_left_alone(url: str) -> None:
    assert not holds_credentials(url)
    assert without_credentials(url) == url


@pytest.mark.parametrize(
    "key",
    [
        "storage.endpoint",
        "storage.root",
        "weights.llm",
        "model.vision.source",
        "data.source.world.kind",
        "tracking.wandb_project",
        "launch.pod.env.HTTP_PROXY",
    ],
)
@pytest.mark.parametrize("url", [*URLS[:4], *BARE])
def test_recipes_with_them_are_refused(key: str, url: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("smoke", [f"{key}={url}"])
    assert SECRET not in str(caught.value)
    assert caught.value.code == "VT-RECIPE-031"
    assert key in caught.value.what
    assert "AWS_ACCESS_KEY_ID" in caught.value.remedy


def test_other_doors_refuse_them(monkeypatch: pytest.MonkeyPatch) -> None:
    doors = [
        (lambda: open_store(URLS[2]), "VT-USE-105"),
        (lambda: open_file(f"{URLS[2]}/y"), "VT-USE-105"),
        (lambda: open_store("s3://bucket/x", endpoint=URLS[0]), "VT-USE-105"),
        (lambda: PipelineServer(URLS[0]), "VT-USE-063"),
    ]
    for door, code in doors:
        with raises_code(UserError, code) as caught:
            door()
        assert SECRET not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", URLS[0])
    with raises_code(UserError, "VT-USE-108"):
        S3Store("bucket")


@pytest.mark.parametrize(
    "url",
    [
        "host:9000",
        "ftp://host",
        "http://host:99999",
        "http://",
        "http://h/?x=1",
        "http://a b",
        "http://a%40b",
    ],
)
def test_endpoints_are_urls_of_servers(url: str) -> None:
    with raises_code(UserError, "VT-RECIPE-047", "storage.endpoint"):
        load_recipe("smoke", [f"storage.endpoint={url}"])
