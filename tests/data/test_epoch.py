"""The order of an epoch: complete, unmixed, shuffled, and the same wherever it is worked out."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lora_core.data.buckets import Placement
from lora_core.data.epoch import batches_per_epoch, epoch_batches, rng_for
from lora_core.data.folders import ImageFile, Subset
from lora_core.data.samples import Sample

SUBSET = Subset(Path("1_bear"), 1, "bear", False, ())


def samples_in(*counts: int) -> list[Sample]:
    """So many samples in each of several buckets, lying mixed."""
    buckets = [(64 * (index + 1), 64) for index, count in enumerate(counts) for _ in range(count)]
    rng_for("mix").shuffle(buckets)
    return [
        Sample(ImageFile(Path(f"{index}.png")), SUBSET, Placement(bucket, bucket, (0, 0), bucket), 1.0, "")
        for index, bucket in enumerate(buckets)
    ]


@pytest.mark.parametrize("counts", [(1,), (10,), (7, 3), (5, 1, 1, 8)])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_every_sample_once_and_buckets_apart(counts, batch_size):
    samples = samples_in(*counts)
    batches = epoch_batches(samples, batch_size, seed=1, epoch=1)
    assert sorted(index for batch in batches for index in batch) == list(range(len(samples)))
    for batch in batches:
        assert len({samples[index].placement.bucket for index in batch}) == 1
    assert len(batches) == batches_per_epoch(samples, batch_size) == sum(-(-count // batch_size) for count in counts)
    short = Counter(samples[batch[0]].placement.bucket for batch in batches if len(batch) < batch_size)
    assert all(count == 1 for count in short.values())


def test_seed_and_epoch_decide():
    samples = samples_in(20, 10)
    orders = {(seed, epoch): epoch_batches(samples, 4, seed, epoch) for seed in (0, 1, 2) for epoch in (1, 2, 3)}
    assert len({str(order) for order in orders.values()}) == 9
    assert all(epoch_batches(samples, 4, *key) == order for key, order in orders.items())


def test_batches_of_different_buckets_alternate():
    samples = samples_in(50, 50)
    widths = [samples[batch[0]].placement.bucket[0] for batch in epoch_batches(samples, 5, 0, 1)]
    assert widths != sorted(widths)
    assert widths != sorted(widths, reverse=True)


def test_the_same_in_another_process():
    code = "from lora_core.data.epoch import rng_for; print(rng_for('a', 1, 2).random())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(other.stdout) == rng_for("a", 1, 2).random()
