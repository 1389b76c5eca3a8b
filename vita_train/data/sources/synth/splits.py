"""Who is held out: sentences, scenes, colour-shape pairs and voices of train, dev and test.

A sentence or scene belongs to one split for all datasets, by a seeded hash of its text, so that no
dataset trains on what another one tests. Words are protected first: as many sentences as are needed
for every word to occur in training are given to it before anything is held out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from vita_train.data.sources.synth.knowledge import facts
from vita_train.data.sources.synth.scenes import ALL_PAIRS, Pair, held_out_pairs
from vita_train.data.sources.synth.sentences import Family, asr_families, spoken, tts_families

TRAIN, DEV, TEST = "train", "dev", "test"
_DEV_SHARE, _TEST_SHARE = 0.08, 0.12


def rng_for(seed: int, *names: object) -> Random:
    """A generator of its own for each named thing, so that adding one thing never changes
    another."""
    return Random("/".join(map(str, (seed, *names))))


def split_of(seed: int, key: str) -> str:
    """The split a scene or sentence belongs to: 80 % train, 8 % dev, 12 % test."""
    digest = hashlib.sha256(f"{seed}/split/{key}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < _TEST_SHARE:
        return TEST
    return DEV if share < _TEST_SHARE + _DEV_SHARE else TRAIN


def covering(sentences: Iterable[str]) -> list[str]:
    """Few sentences in which every word occurs: longest first, taken when they bring a new word."""
    seen: set[str] = set()
    chosen = []
    for sentence in sorted(sentences, key=lambda text: (-len(text.split()), text)):
        words = set(sentence.split())
        if not words <= seen:
            seen |= words
            chosen.append(sentence)
    return chosen


@dataclass(frozen=True)
class Splits:
    """The world cut into train, dev and test."""

    seed: int
    unseen_pairs: tuple[Pair, ...]
    """Combinations that no training image shows."""
    cover: tuple[str, ...]
    """Sentences that training must speak whatever its size; every word of the recogniser's grammar
    is in them."""
    tts_cover: tuple[str, ...]
    """The same for what the assistant says."""
    _fixed: frozenset[str]
    """Sentences that belong to training without a draw."""

    @classmethod
    def cut(cls, seed: int) -> Splits:
        """Cut the world by a seed."""
        asr, tts = asr_families(), tts_families()
        fixed = {
            text for family in (*asr, *tts) if family.always_train for text in family.sentences
        }
        # Of each fact one wording is trained on, else a test would ask for what was never told.
        fixed |= {spoken(rng_for(seed, "fact", *fact).choice(fact[1:])) for fact in facts()}
        cover = covering(text for family in asr for text in family.sentences)
        tts_cover = covering(text for family in tts for text in family.sentences)
        return cls(
            seed,
            held_out_pairs(rng_for(seed, "pairs")),
            tuple(cover),
            tuple(tts_cover),
            frozenset({*fixed, *cover, *tts_cover}),
        )

    @property
    def seen_pairs(self) -> tuple[Pair, ...]:
        """Combinations that training images show."""
        return tuple(pair for pair in ALL_PAIRS if pair not in self.unseen_pairs)

    def of_sentence(self, sentence: str) -> str:
        """Split of a spoken sentence."""
        return TRAIN if sentence in self._fixed else split_of(self.seed, sentence)

    def of_scene(self, text: str) -> str:
        """Split of a scene or video given in words; that of the sentence, so that a caption is not
        both."""
        return self.of_sentence(spoken(text))

    def draw_sentences(
        self,
        families: Sequence[Family],
        split: str,
        number: int,
        rng: Random,
        cover: Sequence[str] = (),
    ) -> list[str]:
        """Draw sentences of one split: a family by its weight, then the family's sentences in turn.

        ``cover`` comes first. Sentences repeat only when a family has been used up.
        """
        pools = [
            [text for text in family.sentences if self.of_sentence(text) == split]
            for family in families
        ]
        for pool in pools:
            rng.shuffle(pool)
        weights = [
            family.weight if pool else 0.0 for family, pool in zip(families, pools, strict=True)
        ]
        used: Counter[int] = Counter()
        drawn = list(cover)
        while len(drawn) < number:
            which = rng.choices(range(len(pools)), weights)[0]
            drawn.append(pools[which][used[which] % len(pools[which])])
            used[which] += 1
        rng.shuffle(drawn)
        return drawn
