"""The small corpus, prepared once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers  # noqa: F401  so that tokenizers are made in this process, not one each

from tests.helpers.data_world import recipe, small_world
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.run import prepare
from vita_train.data.prepare.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Registry of the small world."""
    return small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def corpus(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The small world, prepared."""
    out = tmp_path_factory.mktemp("prepared") / "corpus"
    prepare(recipe(), registry, out)
    return Corpus.open(out)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer trained on a few sentences."""
    texts = [
        "the red circle is left of the blue square\n",
        "what colour is it? it is green.",
        "user\n",
        "assistant\n",
    ]
    return train_tokenizer(texts * 20, 420, tmp_path_factory.mktemp("tokenizer"))
