"""Outputs and times of the attention kernels on one GPU, over packed documents.

    python benchmarks/attention_paths.py [--positions 8192] [--documents 16] [--heads 28]

Prints a line of JSON for each kernel: the largest difference from sdpa in float32, and the
milliseconds of a forward and backward pass.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch.nn import functional as F

from vita_train.errors import RecipeError
from vita_train.models.attention.kernels import Documents, attend, document_of, kernel_for

_REPEATS = 20


def main() -> None:
    """Run every kernel that runs on this GPU."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--heads", type=int, default=28)
    parser.add_argument("--kv-heads", type=int, default=4)
    given = parser.parse_args()
    device = torch.device("cuda")
    torch.manual_seed(0)
    inner = torch.randperm(given.positions - 1)[: given.documents - 1].sort().values + 1
    ends = torch.tensor([given.positions])
    starts = torch.cat([torch.tensor([0]), inner, ends]).int().to(device)
    longest = int(starts.diff().max())
    query, key, value = (
        torch.randn(given.positions, heads, 128, device=device, dtype=torch.bfloat16)
        for heads in (given.heads, given.kv_heads, given.kv_heads)
    )
    owner = document_of(starts, given.positions)
    seen = (owner[:, None] == owner[None, :]).tril()
    expected = F.scaled_dot_product_attention(
        *(part.transpose(0, 1)[None].float() for part in (query, key, value)),
        attn_mask=seen,
        enable_gqa=True,
    )[0].transpose(0, 1)
    for kind in ("flash", "varlen", "flex", "apart"):
        try:
            kernel = kind if kind == "apart" else kernel_for(kind, device, half=True)
        except RecipeError as error:
            print(json.dumps({"kernel": kind, "left out": error.what}))
            continue
        parts = [part.detach().requires_grad_() for part in (query, key, value)]
        found = attend(kernel, *parts, Documents(starts, longest), causal=True)
        found.float().square().mean().backward()  # warm-up and compilation
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(_REPEATS):
            made = attend(kernel, *parts, Documents(starts, longest), causal=True)
            made.float().square().mean().backward()
        torch.cuda.synchronize()
        took = (time.perf_counter() - begun) / _REPEATS
        difference = float((found.float() - expected).abs().max())
        print(json.dumps({"kernel": kind, "difference": difference, "ms": round(took * 1e3, 2)}))


if __name__ == "__main__":
    main()
