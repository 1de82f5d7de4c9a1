"""What a LoRA file says about its training data, under the names that other programs read."""

import json
from collections import Counter
from collections.abc import Sequence

from lora_core.data.captions import tags_of
from lora_core.data.epoch import by_bucket
from lora_core.data.folders import Scan, Subset
from lora_core.data.samples import Sample, caption_text


def dataset_metadata(scan: Scan, samples: Sequence[Sample], *, buckets_enabled: bool) -> dict[str, str]:
    """The ss_* entries that describe folders, tags and buckets; nested ones as JSON.

    Images count with their repeats (``ss_num_*``), regularisation before it is topped up; tags count once per image.
    """
    return {
        "ss_num_train_images": str(_shown(scan.train)),
        "ss_num_reg_images": str(_shown(scan.reg)),
        "ss_dataset_dirs": json.dumps(_folders(scan.train)),
        "ss_reg_dataset_dirs": json.dumps(_folders(scan.reg)),
        "ss_tag_frequency": json.dumps(tag_frequency(scan)),
        "ss_bucket_info": json.dumps(bucket_info(samples) if buckets_enabled else None),
    }


def tag_frequency(scan: Scan) -> dict[str, dict[str, int]]:
    """How many captions of each folder hold each tag."""
    counted: dict[str, Counter[str]] = {}
    for subset in scan.subsets:
        tags = counted.setdefault(subset.name, Counter())
        for image in subset.images:
            tags.update(tags_of(caption_text(image, subset)))
    return {name: dict(tags) for name, tags in counted.items()}


def bucket_info(samples: Sequence[Sample]) -> dict[str, object]:
    """Samples per bucket, and how far the buckets' shapes are from the images' (mean of |width / height| apart)."""
    buckets = sorted(by_bucket(samples).items())
    shapes = {sample.image.path: abs(sample.placement.aspect_error) for sample in samples}
    return {
        "buckets": {
            str(index): {"resolution": list(size), "count": len(indices)}
            for index, (size, indices) in enumerate(buckets)
        },
        "mean_img_ar_error": sum(shapes.values()) / max(1, len(shapes)),
    }


def _shown(subsets: Sequence[Subset]) -> int:
    return sum(subset.repeats * len(subset.images) for subset in subsets)


def _folders(subsets: Sequence[Subset]) -> dict[str, dict[str, int]]:
    return {subset.name: {"n_repeats": subset.repeats, "img_count": len(subset.images)} for subset in subsets}
