"""How much of the settings a page shows: few for a first LoRA, the usual ones, or all. Torch-free.

A setting that is in neither table is for experts, so that a new one makes nobody's page longer.
"""

from typing import Literal, get_args

Level = Literal["beginner", "standard", "expert"]
LEVELS: tuple[Level, ...] = get_args(Level)
USUAL: Level = "standard"

BEGINNER = frozenset(
    {
        "model.base",
        "model.clip_l",
        "model.t5",
        "dataset.train_dir",
        "dataset.trigger_words",
        "dataset.resolution",
        "network.rank",
        "network.alpha",
        "train.epochs",
        "train.train_batch_size",
        "train.learning_rate",
        "save.output_dir",
        "save.output_name",
        "sample.prompts",
    }
)
"""What a first LoRA needs: which model, which pictures, how large, how long, where to."""

STANDARD = frozenset(
    {
        "model.family",
        "model.vae",
        "model.clip_skip",
        "dataset.reg_dir",
        "dataset.pair_before",
        "dataset.pair_after",
        "dataset.enable_bucket",
        "dataset.flip_aug",
        "dataset.shuffle_caption",
        "dataset.keep_tokens",
        "dataset.caption_extension",
        "dataset.cache_latents",
        "network.algo",
        "network.conv_rank",
        "network.conv_alpha",
        "network.factor",
        "optimizer.name",
        "optimizer.class_path",
        "optimizer.d_coef",
        "optimizer.relative_step",
        "schedule.name",
        "schedule.warmup",
        "schedule.num_cycles",
        "train.max_train_steps",
        "train.unet_lr",
        "train.text_encoder_lr",
        "train.train_text_encoder",
        "train.gradient_checkpointing",
        "train.mixed_precision",
        "train.seed",
        "loss.min_snr_gamma",
        "noise.noise_offset",
        "save.overwrite",
        "save.save_every_n_epochs",
        "save.save_precision",
        "validation.every_n_epochs",
        "sample.every_n_epochs",
        "sample.sampler",
    }
)
"""What guides and other trainers' presets commonly change. Of a union, a page shows the chosen variant's only."""


def level_of(path: str) -> Level:
    """The lowest level at which a setting is shown.

    >>> level_of("network.rank"), level_of("optimizer.name"), level_of("optimizer.args")
    ('beginner', 'standard', 'expert')
    """
    if path in BEGINNER:
        return "beginner"
    return "standard" if path in STANDARD else "expert"


def is_shown_at(path: str, level: Level) -> bool:
    return LEVELS.index(level_of(path)) <= LEVELS.index(level)
