"""Latents worked out by several processes: each picture once, the work shared out."""

from collections.abc import Iterator, Sequence

from lora_core.data.latents import LatentCache, MemoryStore, entries_of
from lora_core.data.samples import Sample
from lora_core.train.distributed import Team

AT_ONCE = 256
"""Latents sent in one message: some 100 MB at 1024 pixels."""


def filling(team: Team, cache: LatentCache, samples: Sequence[Sample]) -> Iterator[tuple[int, int]]:
    """Like LatentCache.filling. What is kept in memory is then told to all; on disk, a machine's processes share.

    Progress is this process's own, taken for all.
    """
    if team.alone:
        yield from cache.filling(samples)
        return
    in_memory = isinstance(cache.store, MemoryStore)
    part, parts = (team.rank, team.size) if in_memory else (team.place.local_rank, team.place.local_size)
    total = len(entries_of(samples))
    for done, _ in cache.filling(share_of(samples, part, parts)):
        yield min(done * parts, total), total
    if in_memory:
        for source in range(team.size):
            _tell(team, cache, share_of(samples, source, team.size), source)
    team.meet()
    yield total, total


def share_of(samples: Sequence[Sample], part: int, parts: int) -> list[Sample]:
    """The samples of every ``parts``-th picture, counted by bucket: a picture and its repeats stay together."""
    pictures = sorted({(s.image.path, s.placement): None for s in samples}, key=lambda picture: picture[1].bucket)
    own = set(pictures[part::parts])
    return [sample for sample in samples if (sample.image.path, sample.placement) in own]


def _tell(team: Team, cache: LatentCache, samples: Sequence[Sample], source: int) -> None:
    """One process's latents for the memory of the others."""
    entries = entries_of(samples)
    for first in range(0, len(entries), AT_ONCE):
        some = entries[first : first + AT_ONCE]
        latents = [cache.get(entry) for entry in some] if team.rank == source else []
        for entry, latent in zip(some, team.told_by(source, latents), strict=True):
            cache.store.write(entry, cache.key(entry), latent)
