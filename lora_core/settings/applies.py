"""When a setting counts: only what has no effect at all otherwise is listed. Torch-free.

Which settings a variant of a union has, the models say themselves; here stand the conditions between settings. The form
hides what does not count, the reference names the condition, and a check says when a changed setting has no effect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import Any

from lora_core.i18n import Language, text
from lora_core.settings.fields import choice_label, chooser_of, fields_of, label

Values = Mapping[str, Any]
"""Values by dotted path, of settings or as a form shows them: an empty box is None or empty text."""


@dataclass(frozen=True)
class Needs:
    """A setting has to have one of some values, or any but some, or with neither just to be given."""

    path: str
    one_of: tuple[Any, ...] = ()
    none_of: tuple[Any, ...] = ()

    def holds(self, values: Values) -> bool:
        value = values.get(self.path)
        if self.one_of:
            return value in self.one_of
        if self.none_of:
            return value not in self.none_of
        return value is not None and value != ""

    def words(self, language: Language) -> str:
        """The condition as part of a sentence: "Shuffle caption: on"."""
        name = label(self.path, language)
        if not (self.one_of or self.none_of):
            return text("applies.given", language, label=name)
        shown = ", ".join(_shown(self.path, value, language) for value in self.one_of or self.none_of)
        return text("applies.one_of" if self.one_of else "applies.none_of", language, label=name, values=shown)


AnyOf = tuple[Needs, ...]
"""One of these conditions is enough."""


def _on(path: str) -> AnyOf:
    return (Needs(path, (True,)),)


def _given(*paths: str) -> AnyOf:
    return tuple(Needs(path) for path in paths)


_RATES_COUNT: AnyOf = (Needs("optimizer.relative_step", (False,)), Needs("optimizer.name", none_of=("Adafactor",)))
_RANK_COUNTS: AnyOf = (Needs("network.full_matrix", (False,)), Needs("network.algo", none_of=("lokr",)))
_FILE = Needs("dataset.config")
"""A dataset file may turn on for some of its folders what is off here, and then takes the rest from here."""
_TAGS_ARE_DRAWN: AnyOf = (
    Needs("dataset.shuffle_caption", (True,)),
    Needs("dataset.caption_tag_dropout_rate", none_of=(0,)),
    Needs("dataset.token_warmup_step"),
    _FILE,
)
_BUCKETS: AnyOf = (Needs("dataset.enable_bucket", (True,)), _FILE)
_ENLARGES: AnyOf = (Needs("dataset.bucket_no_upscale", (False,)), _FILE)
_DIFFUSION: AnyOf = (Needs("model.family", none_of=("flux",)),)
"""Models with a signal-to-noise ratio by step; FLUX.1 goes from noise to picture in a straight line."""
_FLOW: AnyOf = (Needs("model.family", ("flux",)),)
_HUBER: AnyOf = (Needs("loss.loss_type", ("huber", "smooth_l1")),)
_OFFSET: AnyOf = (Needs("noise.noise_offset_type", ("original", "both")),)
_MULTIRES: AnyOf = (Needs("noise.noise_offset_type", ("multires", "both")),)
_VALIDATES: AnyOf = _given("validation.every_n_epochs")
_SPLITS: AnyOf = _given("validation.split", "validation.folder")
_SEVERAL_MACHINES: AnyOf = (Needs("launch.machines", none_of=(1,)),)

APPLIES: Mapping[str, tuple[AnyOf, ...]] = MappingProxyType(
    {
        "dataset.bucket_no_upscale": (_BUCKETS,),
        "dataset.bucket_reso_steps": (_BUCKETS,),
        "dataset.min_bucket_reso": (_BUCKETS, _ENLARGES),
        "dataset.max_bucket_reso": (_BUCKETS, _ENLARGES),
        "dataset.keep_tokens": (_TAGS_ARE_DRAWN,),
        "dataset.cache_dir": ((Needs("dataset.cache_latents", ("disk",)),),),
        "network.rank": (_RANK_COUNTS,),
        "network.alpha": (_RANK_COUNTS,),
        "network.rs_lora": (_RANK_COUNTS,),
        "network.conv_alpha": (_given("network.conv_rank"), _RANK_COUNTS),
        "network.decompose_both": (_RANK_COUNTS,),
        "network.dim_from_weights": (_given("network.network_weights"),),
        "train.unet_lr": (_RATES_COUNT,),
        "train.text_encoder_lr": (_on("train.train_text_encoder"), _RATES_COUNT),
        "train.text_encoder_2_lr": (
            (Needs("model.family", ("sdxl",)),),
            _on("train.train_text_encoder"),
            _RATES_COUNT,
        ),
        "train.stop_text_encoder_training": (_on("train.train_text_encoder"),),
        "train.stop_text_encoder_steps": (_on("train.train_text_encoder"),),
        "train.ema_save": (_given("train.ema_decay"),),
        "loss.min_snr_gamma": (_DIFFUSION,),
        "loss.prior_loss_weight": (_given("dataset.reg_dir", "dataset.config"),),
        "save.keep_last_n": (_given("save.save_every_n_epochs", "save.save_every_n_steps"),),
        "dataset.keep_tokens_separator": (_TAGS_ARE_DRAWN,),
        "dataset.secondary_separator": (_TAGS_ARE_DRAWN,),
        "dataset.token_warmup_min": (_given("dataset.token_warmup_step"),),
        "dataset.mask_dir": ((Needs("loss.masked_loss", ("folder",)),),),
        "loss.huber_schedule": (_HUBER,),
        "loss.huber_c": (_HUBER,),
        "loss.huber_scale": (_HUBER, (Needs("loss.huber_schedule", none_of=("snr",)),)),
        "loss.unmasked_weight": ((Needs("loss.masked_loss", none_of=("off",)),),),
        "loss.pair_outside": (_given("dataset.pair_before"),),
        "loss.prior_words": (_given("loss.prior_preservation"),),
        "loss.debiased_estimation_loss": (_DIFFUSION,),
        "loss.scale_v_pred_loss_like_noise_pred": (_DIFFUSION,),
        "loss.v_pred_like_loss": (_DIFFUSION,),
        **{f"slider.{name}": (_given("slider.target"),) for name in ("more", "less", "keep", "guidance")},
        "noise.noise_offset": (_OFFSET,),
        "noise.noise_offset_random_strength": (_OFFSET, _given("noise.noise_offset")),
        "noise.adaptive_noise_scale": (_OFFSET, _given("noise.noise_offset")),
        "noise.multires_noise_iterations": (_MULTIRES,),
        "noise.multires_noise_discount": (_MULTIRES, _given("noise.multires_noise_iterations")),
        "noise.ip_noise_gamma_random_strength": (_given("noise.ip_noise_gamma"),),
        "noise.zero_terminal_snr": (_DIFFUSION,),
        "noise.timestep_sampling": (_FLOW,),
        "noise.sigmoid_scale": (_FLOW, (Needs("noise.timestep_sampling", ("flux_shift", "shift", "sigmoid")),)),
        "noise.discrete_flow_shift": (_FLOW, (Needs("noise.timestep_sampling", ("shift",)),)),
        "noise.logit_mean": (_FLOW, (Needs("noise.timestep_sampling", ("logit_normal",)),)),
        "noise.logit_std": (_FLOW, (Needs("noise.timestep_sampling", ("logit_normal",)),)),
        **{f"validation.{name}": (_VALIDATES,) for name in ("split", "fold", "folder", "seed")},
        **{f"validation.{name}": (_VALIDATES,) for name in ("max_pictures", "timesteps")},
        **{f"validation.{name}": (_VALIDATES,) for name in ("noise_draws", "class_prompt", "unrelated_prompts")},
        **{f"validation.{name}": (_VALIDATES, _SPLITS) for name in ("patience", "keep_best")},
        "launch.machine_rank": (_SEVERAL_MACHINES,),
        "launch.main_address": (_SEVERAL_MACHINES,),
    }
)
"""Setting -> what all has to hold for it to count. A new setting that needs another gets a row here."""


def belongs(path: str, values: Values) -> bool:
    """False for a setting of a variant that is not chosen."""
    field = fields_of()[path]
    return not field.defaults or values.get(chooser_of(field.section)) in field.variants


def applies(path: str, values: Values) -> bool:
    """Whether a setting has any effect with these values."""
    return belongs(path, values) and all(any(need.holds(values) for need in needs) for needs in APPLIES.get(path, ()))


def governor(path: str, values: Values) -> str:
    """The setting to change so that this one counts; the setting itself where it does."""
    if not belongs(path, values):
        return chooser_of(fields_of()[path].section)
    for needs in APPLIES.get(path, ()):
        if not any(need.holds(values) for need in needs):
            return governor(needs[0].path, values)
    return path


def condition(path: str, language: Language) -> str:
    """What has to hold, as a sentence: "Counts only with Shuffle caption: on." Empty for what always counts."""
    parts = conditions(path, language)
    return text("applies.only", language, conditions=parts) if parts else ""


def conditions(path: str, language: Language) -> str:
    """The same without the sentence around it."""
    groups = [_joined("applies.or", [n.words(language) for n in needs], language) for needs in APPLIES.get(path, ())]
    return _joined("applies.and", groups, language)


def _joined(key: str, parts: Sequence[str], language: Language) -> str:
    return reduce(lambda first, second: text(key, language, first=first, second=second), parts) if parts else ""


def _shown(path: str, value: Any, language: Language) -> str:
    if isinstance(value, bool):
        return text("applies.on" if value else "applies.off", language)
    if isinstance(value, int | float):
        return f"{value:g}"
    return choice_label(path, value, language)
