"""The order of an epoch: which samples form which batch, as a function of seed and epoch alone."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence

from lora_core.data.samples import Sample


def rng_for(*parts: int | str) -> random.Random:
    """A random generator of its own for each place in a run, e.g. (seed, epoch, sample).

    Seeded through SHA-256: the same in every process and on every system (``hash()`` is not), and neighbouring
    seeds and epochs have nothing in common.
    """
    return random.Random(int.from_bytes(hashlib.sha256(repr(parts).encode()).digest(), "big"))


def epoch_batches(samples: Sequence[Sample], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices into ``samples``, batch by batch. Each sample comes once; a batch holds one bucket size only.

    Samples are shuffled within their bucket, and batches among each other. The last batch of a bucket may be short.
    The n-th batch can be had without going through those before it: resuming only needs (seed, epoch, n).
    """
    rng = rng_for("order", seed, epoch)
    batches = []
    for _, indices in sorted(by_bucket(samples).items()):
        rng.shuffle(indices)
        batches += [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    rng.shuffle(batches)
    return batches


def by_bucket(samples: Sequence[Sample]) -> dict[tuple[int, int], list[int]]:
    """Indices of the samples of each bucket size."""
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        buckets[sample.placement.bucket].append(index)
    return buckets


def batches_per_epoch(samples: Sequence[Sample], batch_size: int) -> int:
    """Sum over the buckets of their samples / batch size, each rounded up."""
    return sum(-(-len(indices) // batch_size) for indices in by_bucket(samples).values())
