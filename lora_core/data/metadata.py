"""What a LoRA file says about its training data, under the names that other programs read."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from lora_core.data.captions import tags_of
from lora_core.data.epoch import by_bucket
from lora_core.data.samples import Sample, caption_text
from lora_core.data.subsets import Scan, Subset
from lora_core.settings import sides


def dataset_metadata(
    scan: Scan, samples: Sequence[Sample], *, buckets_enabled: bool, batch_size: int = 1
) -> dict[str, str]:
    """The ss_* entries that describe folders, tags and buckets; nested ones as JSON.

    Images count with their repeats (``ss_num_*``), regularisation before it is topped up; tags count once per image.
    ``batch_size`` is that of datasets which have none of their own.
    """
    if scan.datasets and scan.datasets != [0]:
        parts = [_dataset(number, scan, samples, batch_size) for number in scan.datasets]
        return {
            "ss_num_train_images": str(_shown(scan.train)),
            "ss_num_reg_images": str(_shown(scan.reg)),
            "ss_dataset_dirs": json.dumps(_folders(scan.train)),
            "ss_reg_dataset_dirs": json.dumps(_folders(scan.reg)),
            "ss_tag_frequency": json.dumps(tag_frequency(scan)),
            "ss_datasets": json.dumps(parts),
        }
    return {
        "ss_num_train_images": str(_shown(scan.train)),
        "ss_num_reg_images": str(_shown(scan.reg)),
        "ss_dataset_dirs": json.dumps(_folders(scan.train)),
        "ss_reg_dataset_dirs": json.dumps(_folders(scan.reg)),
        "ss_tag_frequency": json.dumps(tag_frequency(scan)),
        "ss_bucket_info": json.dumps(bucket_info(samples) if buckets_enabled else None),
    }


def _dataset(number: int, scan: Scan, samples: Sequence[Sample], batch_size: int) -> dict[str, Any]:
    """One element of ``ss_datasets``."""
    own = Scan(tuple(subset for subset in scan.subsets if subset.dataset == number))
    first = own.subsets[0]
    shown = [sample for sample in samples if sample.subset.dataset == number]
    return {
        "is_dreambooth": not any(_listed(subset) for subset in own.subsets),
        "batch_size_per_device": first.batch_size or batch_size,
        "num_train_images": _shown(own.train),
        "num_reg_images": _shown(own.reg),
        "resolution": sides(first.options.resolution),
        "enable_bucket": first.options.enable_bucket,
        "bucket_no_upscale": first.options.bucket_no_upscale,
        "min_bucket_reso": first.options.min_bucket_reso,
        "max_bucket_reso": first.options.max_bucket_reso,
        "tag_frequency": tag_frequency(own),
        "bucket_info": bucket_info(shown) if first.options.enable_bucket else None,
        "subsets": [_subset(subset) for subset in own.subsets],
    }


def _subset(subset: Subset) -> dict[str, Any]:
    """One element of ``subsets``. Folders by their name alone: a LoRA is shared, its author's disk is not."""
    options = subset.options
    return {
        "img_count": len(subset.images),
        "num_repeats": subset.repeats,
        "color_aug": False,
        "flip_aug": options.flip_aug,
        "random_crop": options.random_crop,
        "shuffle_caption": options.shuffle_caption,
        "keep_tokens": options.keep_tokens,
        "keep_tokens_separator": options.keep_tokens_separator,
        "secondary_separator": options.secondary_separator or None,
        "enable_wildcard": options.enable_wildcard,
        "caption_prefix": options.caption_prefix or None,
        "caption_suffix": options.caption_suffix or None,
        "image_dir": subset.name,
        "class_tokens": subset.class_tokens or None,
        "is_reg": subset.is_reg,
        "loss_weight": subset.loss_weight,
    }


def _listed(subset: Subset) -> bool:
    """Its captions come from a list, as in fine-tuning datasets."""
    return any(image.caption is not None for image in subset.images)


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


def _folders(subsets: Iterable[Subset]) -> dict[str, dict[str, int]]:
    return {subset.name: {"n_repeats": subset.repeats, "img_count": len(subset.images)} for subset in subsets}
