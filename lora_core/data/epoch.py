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


Group = tuple[int, tuple[int, int]]
"""Number of a dataset and size of a bucket: samples of one group may share a batch."""


def epoch_batches(samples: Sequence[Sample], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices into ``samples``, batch by batch. Each sample comes once; a batch holds one bucket of one dataset only.

    Samples are shuffled within their bucket, and batches among each other. The last batch of a bucket may be short.
    The n-th batch can be had without going through those before it: resuming only needs (seed, epoch, n).
    ``batch_size`` is for datasets that have none of their own.
    """
    rng = rng_for("order", seed, epoch)
    batches = []
    for _, indices in sorted(by_group(samples).items()):
        rng.shuffle(indices)
        size = size_of_batch(samples[indices[0]], batch_size)
        batches += [indices[start : start + size] for start in range(0, len(indices), size)]
    rng.shuffle(batches)
    return batches


def by_group(samples: Sequence[Sample]) -> dict[Group, list[int]]:
    """Indices of the samples of each bucket of each dataset."""
    groups: dict[Group, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[sample.subset.dataset, sample.placement.bucket].append(index)
    return groups


def by_bucket(samples: Sequence[Sample]) -> dict[tuple[int, int], list[int]]:
    """Indices of the samples of each bucket size."""
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        buckets[sample.placement.bucket].append(index)
    return buckets


def size_of_batch(sample: Sample, batch_size: int) -> int:
    """How many samples a full batch with this one has: its dataset's own number, else ``batch_size``."""
    return sample.subset.batch_size or batch_size


def batches_per_epoch(samples: Sequence[Sample], batch_size: int) -> int:
    """Sum over the buckets of each dataset of their samples / batch size, each rounded up."""
    return sum(
        -(-len(indices) // size_of_batch(samples[indices[0]], batch_size)) for indices in by_group(samples).values()
    )
