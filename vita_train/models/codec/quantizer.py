"""Vector quantisers: one codebook or several, straight-through gradients.

Two ways to move the codebook (van den Oord et al. 2017): by its own loss (``learned``, as TiCodec
does), or as a moving average of the vectors that choose a code, with restart of codes nobody
chooses (``ema``). Several codebooks quantise parts of a vector, and what is left of it in rounds
(TiCodec, Ren et al. 2023).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.models.codec.precision import full_precision

CODEBOOK_WEIGHT = 1.0
COMMITMENT_WEIGHT = 0.25


class Quantized(NamedTuple):
    """What a quantiser returns."""

    vectors: Tensor
    """(B, T, D), equal to the chosen codes; gradients pass straight through to the input."""
    codes: Tensor
    """(B, T) long; (B, T, Q) of Q codebooks."""
    loss: Tensor
    """Scalar: codebook (learned only) plus 0.25 commitment."""


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest row of ``codebook`` (K, D) for each of ``vectors`` (..., D),
    long."""
    flat = vectors.reshape(-1, vectors.shape[-1]).float()
    book = codebook.float()
    with full_precision(flat):
        distance = book.square().sum(1) - 2 * flat @ book.T  # |v|^2 is the same for every code
    return distance.argmin(1).reshape(vectors.shape[:-1])


class LearnedQuantizer(nn.Module):
    """Codebook trained by gradient: mse(code, sg(z)) + 0.25 mse(z, sg(code))."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.empty(size, dim).uniform_(-1 / size, 1 / size))

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., D) of ``codes`` (...)."""
        return F.embedding(codes, self.codebook)

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise ``vectors`` (B, T, D)."""
        codes = nearest(vectors, self.codebook)
        chosen = self.lookup(codes)
        loss = CODEBOOK_WEIGHT * F.mse_loss(
            chosen, vectors.detach()
        ) + COMMITMENT_WEIGHT * F.mse_loss(vectors, chosen.detach())
        return Quantized(vectors + (chosen - vectors).detach(), codes, loss)

    def start(self, vectors: Tensor) -> None:
        """Leave the codebook where it was drawn: its loss moves it."""


class EmaQuantizer(nn.Module):
    """Codebook as a moving average: n <- d n + (1-d) count, s <- d s + (1-d) sum of choosers, code
    = s / n.

    Forward passes that train gather counts and sums; :meth:`after_step` adds those of all ranks,
    moves the codebook once, and puts every code whose usage fell below a fifth of the even share on
    a recent vector. Which vector is a function of the number of updates alone, so a resumed run
    restarts the same codes.
    """

    codebook: Tensor
    usage: Tensor
    sums: Tensor
    updates: Tensor

    def __init__(
        self, size: int, dim: int, *, decay: float = 0.97, dead_share: float = 0.2
    ) -> None:
        super().__init__()
        self.decay = decay
        self.dead_share = dead_share
        self.register_buffer("codebook", torch.randn(size, dim))
        self.register_buffer("usage", torch.ones(size))
        self.register_buffer("sums", torch.zeros(size, dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self._gathered: list[tuple[Tensor, Tensor]] = []

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., D) of ``codes`` (...)."""
        return F.embedding(codes, self.codebook)

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise ``vectors`` (B, T, D)."""
        codes = nearest(vectors, self.codebook)
        chosen = self.lookup(codes).to(vectors.dtype)
        # Without gradients something is measured, and that moves no codebook.
        if self.training and torch.is_grad_enabled():
            self._gathered.append((_rows(vectors), codes.reshape(-1)))
        loss = COMMITMENT_WEIGHT * F.mse_loss(vectors, chosen)
        return Quantized(vectors + (chosen - vectors).detach(), codes, loss)

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Put every code on one of ``vectors`` (..., D), each counting as its even share of
        them."""
        # As if each had been chosen evenly so far: the first step would else find most codes dead.
        share = vectors.numel() / vectors.shape[-1] / len(self.codebook)
        self.codebook.copy_(self._draw(_rows(vectors)))
        self.usage.fill_(share)
        self.sums.copy_(self.codebook * share)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the codebook by what the forward passes since the last call have gathered."""
        # Nothing was learnt from, on any rank: collective calls below are left out by all or none
        if not self._gathered:
            return
        vectors = torch.cat([rows for rows, _ in self._gathered])
        codes = torch.cat([chosen for _, chosen in self._gathered])
        self._gathered = []
        counts = torch.bincount(codes, minlength=len(self.codebook)).float()
        sums = torch.zeros_like(self.sums, dtype=torch.float32).index_add_(0, codes, vectors)
        # Buffers are not kept equal by the engine: what moves them has to be equal on all ranks.
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        if not bool(
            torch.isfinite(sums).all()
        ):  # of a step that was left out; the sums are those of all ranks
            return
        usage = self.decay * self.usage + (1 - self.decay) * counts
        sums = self.decay * self.sums + (1 - self.decay) * sums
        share = counts.sum() / len(counts)
        dead = usage < self.dead_share * share
        # A code that starts again has its even share at once; with less it would be dead again at
        # the next step.
        self.usage.copy_(torch.where(dead, share, usage))
        self.sums.copy_(torch.where(dead[:, None], share * self._draw(vectors), sums))
        self.codebook.copy_(self.sums / self.usage[:, None])
        self.updates += 1

    def _draw(self, vectors: Tensor) -> Tensor:
        """Draw a vector for each code from rank 0's ``vectors`` (N, D), with a little noise; the
        same on every rank."""
        # On the CPU: devices draw other numbers from the same seed.
        generator = torch.Generator().manual_seed(int(self.updates))
        rows = torch.randint(len(vectors), (len(self.codebook),), generator=generator)
        # Of two codes on the very same vector the second would never be chosen.
        noise = torch.randn(self.codebook.shape, generator=generator)
        drawn = vectors[rows.to(vectors.device)] + 1e-2 * vectors.std() * noise.to(vectors.device)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(drawn, src=0)
        return drawn


def _rows(vectors: Tensor) -> Tensor:
    """Flatten to (N, D) float32, without gradient."""
    return vectors.detach().reshape(-1, vectors.shape[-1]).float()


class GroupedResidualQuantizer(nn.Module):
    """``residuals`` rounds of ``groups`` codebooks: each round cuts what the rounds before it left
    into equal parts and quantises each; the chosen codes add up.

    Codes (B, T, residuals * groups) stand round by round. The loss is the mean over the rounds.
    """

    def __init__(
        self, kind: Literal["learned", "ema"], size: int, dim: int, groups: int, residuals: int
    ) -> None:
        super().__init__()
        self.groups, self.residuals = groups, residuals
        self.books = nn.ModuleList(
            build_quantizer(kind, size, dim // groups) for _ in range(residuals * groups)
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., D) of ``codes`` (..., residuals * groups)."""
        pairs = zip(self.books, codes.unbind(-1), strict=True)
        found = [book.lookup(ids) for book, ids in pairs]  # type: ignore[operator]
        parts = torch.cat(found, dim=-1)
        # Codes stand round by round: (..., residuals * D) -> (..., residuals, D), summed over
        # rounds
        return parts.unflatten(-1, (self.residuals, -1)).sum(-2)

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise ``vectors`` (B, T, D)."""
        rest, total = vectors, torch.zeros_like(vectors)
        codes, losses = [], []
        for turn in range(self.residuals):
            parts = self._quantize(turn, rest)
            chosen = torch.cat([part.vectors for part in parts], dim=-1)
            # By straight-through gradients the rest has none: the first round alone moves the
            # encoder.
            rest, total = rest - chosen, total + chosen
            codes += [part.codes for part in parts]
            losses.append(torch.stack([part.loss for part in parts]).mean())
        return Quantized(total, torch.stack(codes, dim=-1), torch.stack(losses).mean())

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Start each round's moving-average codebooks on what the rounds before it leave of
        ``vectors`` (B, T, D)."""
        for turn in range(self.residuals):
            pairs = zip(self._books(turn), vectors.chunk(self.groups, dim=-1), strict=True)
            for book, part in pairs:
                book.start(part)  # type: ignore[operator]
            parts = self._quantize(turn, vectors)
            vectors = vectors - torch.cat([part.vectors for part in parts], dim=-1)

    def _books(self, turn: int) -> nn.ModuleList:
        return self.books[turn * self.groups : (turn + 1) * self.groups]

    def _quantize(self, turn: int, vectors: Tensor) -> list[Quantized]:
        """Quantise each part of ``vectors`` (B, T, D) with its own codebook of a round."""
        parts = vectors.chunk(self.groups, dim=-1)
        return [book(part) for book, part in zip(self._books(turn), parts, strict=True)]


Quantizer = LearnedQuantizer | EmaQuantizer


def build_quantizer(kind: Literal["learned", "ema"], size: int, dim: int) -> Quantizer:
    """Return a quantiser of ``size`` codes of width ``dim``."""
    return LearnedQuantizer(size, dim) if kind == "learned" else EmaQuantizer(size, dim)
