"""Random numbers as a function of (seed, what for, where in the run).

Nothing in training draws from a stream that depends on what was drawn before. So step n is the same whether the run
began at 0 or was resumed at n, whether samples were drawn on the way or not, and there is no generator state to save.
"""

import hashlib

import torch


def derive(seed: int, *path: int | str) -> int:
    """A 63-bit seed for one purpose, from the run's seed and a path such as ("noise", step, microbatch)."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *path: int | str) -> torch.Generator:
    """A CPU generator for one purpose. On the CPU, so that every device trains on the same noise."""
    return torch.Generator().manual_seed(derive(seed, *path))


def seed_dropout(seed: int, *path: int | str) -> None:
    """Seed torch's global generators, which dropout draws from, for one microbatch."""
    torch.manual_seed(derive(seed, "dropout", *path))
