"""What a LoRA file says of itself: ss_* as sd-scripts writes them, modelspec.*, and our own settings. Torch-free.

A LoRA is passed on to others, so nothing in it names a folder of this machine: of paths only the last part is kept, and
in the settings, where half a path would mislead, they are left empty.
"""

import hashlib
import json
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_core.errors import UserError
from lora_core.io.base_models import BaseModel, base_model, told_of_flow, told_of_the_model
from lora_core.io.headers import read_header
from lora_core.settings import (
    LokrSettings,
    LossSettings,
    NetworkSettings,
    NoiseSettings,
    OptimizerSettings,
    RunSettings,
    sides,
)
from lora_core.train.schedules import warmup_steps

if TYPE_CHECKING:
    from lora_core.families.base import ModelSource
    from lora_core.plan import Plan

SETTINGS_KEY = "kumakobo_settings"


def training_metadata(
    settings: RunSettings,
    *,
    plan: "Plan",
    source: "ModelSource",
    dataset: dict[str, str],
    seed: int,
    precision: str,
    prediction_type: str,
    zero_terminal_snr: bool = False,
    started_at: float,
    finished_at: float,
    steps: int,
    epoch: int,
) -> dict[str, str]:
    """All metadata of a trained LoRA but the hashes of its own tensors, which come when it is saved.

    ``dataset`` holds the ss_* entries about folders, tags and buckets; ``steps`` and ``epoch`` count what is done.
    Times are seconds since 1970.
    """
    base = base_model(settings.model, prediction_type, source.variant)
    values = {
        "ss_session_id": session_id(started_at, seed),
        "ss_training_started_at": started_at,
        "ss_training_finished_at": finished_at,
        "ss_steps": steps,
        "ss_epoch": epoch,
        "ss_seed": seed,
        "ss_mixed_precision": precision,
        **_network(settings.network, base.network_module),
        **_training(settings, plan),
        **_loss_and_noise(settings.loss, settings.noise),
        "ss_zero_terminal_snr": zero_terminal_snr,
        **_model(settings, source, base),
        **_data(settings),
    }
    if "ss_datasets" in dataset:
        values = {key: value for key, value in values.items() if key not in IN_FOLDER_MODE}
    spec = _modelspec(settings, base, prediction_type, finished_at)
    return {
        **{key: str(value) for key, value in values.items()},
        **dataset,
        **{f"modelspec.{key}": str(value) for key, value in spec.items() if value not in (None, "")},
        SETTINGS_KEY: json.dumps(shareable(settings), ensure_ascii=False),
        "kumakobo_version": program_version(),
    }


def settings_from_lora(path: Path) -> dict[str, Any]:
    """The settings a LoRA was trained with, as a tree to be checked (they may be those of an older version).

    Fields that held paths are empty. Raises UserError for a LoRA of another program, or no model file at all.
    """
    metadata = read_header(path).metadata
    try:
        tree = json.loads(metadata[SETTINGS_KEY])
    except (KeyError, json.JSONDecodeError):
        tree = None
    if not isinstance(tree, dict):
        raise UserError("settings.lora_without", path=path)
    return tree


def shareable(settings: RunSettings) -> dict[str, Any]:
    """The settings as JSON values without this machine's paths and addresses."""
    tree = _without_paths(settings.model_dump())
    tree["launch"]["main_address"] = ""
    if _is_path(settings.model.base):
        tree["model"]["base"] = ""
    return tree


def program_version() -> str:
    try:
        return version("kumakobo")
    except PackageNotFoundError:
        return "(unknown)"


def session_id(started_at: float, seed: int) -> int:
    """A number below 2**32 that all files of one run share."""
    return int.from_bytes(hashlib.sha256(f"{started_at}:{seed}".encode()).digest()[:4], "little")


# ---- the parts -------------------------------------------------------------------------------------------------------


def _network(network: NetworkSettings, module: str) -> dict[str, Any]:
    """As sd-scripts writes it for its own networks and for those of LyCORIS. alpha is the one in the file."""
    dropout = getattr(network, "network_dropout", 0.0)
    rank, alpha = network.rank_and_alpha(kernel=False)
    if getattr(network, "init", "") == "pissa":  # the file holds what was learned less the start
        rank, alpha = 2 * rank, 2 * alpha
    args = _lycoris_args(network) if network.algo in _LYCORIS else {}
    if network.convolutions:
        args["conv_dim"], args["conv_alpha"] = network.rank_and_alpha(kernel=True)
    args |= {name: getattr(network, option, None) for name, option in _LORA_PLUS.items()}
    args |= {"dropout": dropout, "rank_dropout": network.rank_dropout, "module_dropout": network.module_dropout}
    return {
        "ss_network_module": "lycoris.kohya" if network.algo in _LYCORIS else module,
        "ss_network_dim": "Dynamic" if network.dim_from_weights else rank,
        "ss_network_alpha": "Dynamic" if network.dim_from_weights else alpha,
        "ss_network_dropout": dropout or None,
        "ss_network_args": json.dumps({name: str(value) for name, value in args.items() if value}),
        "ss_scale_weight_norms": getattr(network, "scale_weight_norms", None),
    }


_LORA_PLUS = {
    "loraplus_lr_ratio": "loraplus_ratio",
    "loraplus_unet_lr_ratio": "loraplus_unet_ratio",
    "loraplus_text_encoder_lr_ratio": "loraplus_text_encoder_ratio",
}
"""Names in sd-scripts' network_args -> ours."""
_LYCORIS = {"loha": "loha", "lokr": "lokr", "dora": "locon", "oft": "diag-oft"}
"""What LyCORIS calls the algorithms that sd-scripts' own networks do not have."""


def _lycoris_args(network: NetworkSettings) -> dict[str, Any]:
    args: dict[str, Any] = {
        "algo": _LYCORIS[network.algo],
        "preset": "full" if network.convolutions else "attn-mlp",
        "dora_wd": (decomposed := network.algo == "dora" or getattr(network, "weight_decompose", False)),
        "constraint": getattr(network, "constraint", None),
    }
    if decomposed:
        args["wd_on_output"] = "False"  # LyCORIS' default is the other side
    if isinstance(network, LokrSettings):
        args |= {
            "factor": network.factor or -1,
            "full_matrix": network.full_matrix,
            "decompose_both": network.decompose_both,
        }
    return args


def _training(settings: RunSettings, plan: "Plan") -> dict[str, Any]:
    train = settings.train
    text_encoder_lr: Any = (train.text_encoder_lr or train.learning_rate) if train.train_text_encoder else 0.0
    if train.train_text_encoder and settings.model.family == "sdxl":
        text_encoder_lr = [text_encoder_lr, train.text_encoder_2_lr or text_encoder_lr]
    return {
        "ss_output_name": settings.save.output_name,
        "ss_training_comment": settings.save.comment or None,
        "ss_learning_rate": train.learning_rate,
        "ss_unet_lr": train.unet_lr or train.learning_rate,
        "ss_text_encoder_lr": text_encoder_lr,
        "ss_optimizer": optimizer_text(settings.optimizer),
        "ss_lr_scheduler": settings.schedule.name,
        "ss_lr_warmup_steps": warmup_steps(settings.schedule, plan.total_steps),
        "ss_max_train_steps": plan.total_steps,
        "ss_num_epochs": plan.epochs,
        "ss_num_batches_per_epoch": plan.batches_per_epoch,
        "ss_gradient_checkpointing": train.gradient_checkpointing,
        "ss_gradient_accumulation_steps": train.gradient_accumulation_steps,
        "ss_max_grad_norm": train.max_grad_norm,
        "ss_full_fp16": False,
        "ss_lowram": False,
    }


def _loss_and_noise(loss: LossSettings, noise: NoiseSettings) -> dict[str, Any]:
    """As sd-scripts writes it; values of a kind of noise that was not used are None."""
    offset = noise.noise_offset if noise.noise_offset_type != "multires" else None
    iterations = noise.multires_noise_iterations if noise.noise_offset_type != "original" else None
    return {
        "ss_noise_offset": offset,
        "ss_noise_offset_random_strength": offset is not None and noise.noise_offset_random_strength,
        "ss_adaptive_noise_scale": noise.adaptive_noise_scale if offset is not None else None,
        "ss_multires_noise_iterations": iterations,
        "ss_multires_noise_discount": noise.multires_noise_discount,
        "ss_ip_noise_gamma": noise.ip_noise_gamma,
        "ss_ip_noise_gamma_random_strength": noise.ip_noise_gamma_random_strength,
        "ss_min_snr_gamma": loss.min_snr_gamma,
        "ss_debiased_estimation": loss.debiased_estimation_loss,
        "ss_loss_type": loss.loss_type,
        "ss_huber_schedule": loss.huber_schedule,
        "ss_huber_scale": loss.huber_scale,
        "ss_huber_c": loss.huber_c,
        "ss_prior_loss_weight": loss.prior_loss_weight,
    }


def optimizer_text(optimizer: OptimizerSettings) -> str:
    """For example ``AdamW8bit(weight_decay=0.01,betas=(0.9,0.99))``."""
    name = optimizer.class_path if optimizer.name == "custom" else optimizer.name
    return f"{name}({','.join([f'weight_decay={optimizer.weight_decay}', *optimizer.args.split()])})"


def _model(settings: RunSettings, source: "ModelSource", base: BaseModel) -> dict[str, Any]:
    vae = {
        "ss_vae_name": source.vae_name,
        "ss_vae_hash": source.vae_legacy_hash,
        "ss_new_vae_hash": source.vae_sha256,
    }
    return {
        "ss_base_model_version": base.version,
        **told_of_the_model(settings.model),
        **told_of_flow(settings.model, settings.noise),
        "ss_sd_model_name": source.name,
        "ss_sd_model_hash": source.legacy_hash,
        "ss_new_sd_model_hash": source.sha256,
        **{key: value for key, value in vae.items() if value},
    }


def _data(settings: RunSettings) -> dict[str, Any]:
    data, batch = settings.dataset, settings.train.train_batch_size
    return {
        "ss_num_validation_images": 0,
        "ss_cache_latents": data.cache_latents != "off",
        "ss_caption_dropout_rate": data.caption_dropout_rate,
        "ss_caption_dropout_every_n_epochs": data.caption_dropout_every_n_epochs or 0,
        "ss_caption_tag_dropout_rate": data.caption_tag_dropout_rate,
        "ss_face_crop_aug_range": None,
        "ss_batch_size_per_device": batch,
        "ss_total_batch_size": settings.images_per_batch * settings.train.gradient_accumulation_steps,
        "ss_resolution": sides(data.resolution),
        "ss_color_aug": False,
        "ss_flip_aug": data.flip_aug,
        "ss_random_crop": data.random_crop,
        "ss_shuffle_caption": data.shuffle_caption,
        "ss_keep_tokens": data.keep_tokens,
        "ss_enable_bucket": data.enable_bucket,
        "ss_bucket_no_upscale": data.bucket_no_upscale,
        "ss_min_bucket_reso": data.min_bucket_reso,
        "ss_max_bucket_reso": data.max_bucket_reso,
    }


IN_FOLDER_MODE = (
    "ss_batch_size_per_device",
    "ss_total_batch_size",
    "ss_resolution",
    "ss_color_aug",
    "ss_flip_aug",
    "ss_random_crop",
    "ss_shuffle_caption",
    "ss_enable_bucket",
    "ss_bucket_no_upscale",
    "ss_min_bucket_reso",
    "ss_max_bucket_reso",
    "ss_keep_tokens",
)
"""What is left out, as in sd-scripts, when a dataset file is used: ``ss_datasets`` says it for each dataset."""


def _modelspec(settings: RunSettings, base: BaseModel, prediction_type: str, finished_at: float) -> dict[str, Any]:
    """Entries of Stability's model metadata standard 1.0.1; empty ones are left out."""
    save = settings.save
    return {
        "sai_model_spec": "1.0.1",
        "architecture": f"{base.architecture}/lora",
        "implementation": base.implementation,
        "implementation_version": f"kumakobo/{program_version()}",
        "title": save.title or save.output_name,
        "resolution": "x".join(map(str, sides(settings.dataset.resolution))),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(finished_at)),
        "prediction_type": {"epsilon": "epsilon", "v_prediction": "v"}.get(prediction_type),
        "timestep_range": _timestep_range(settings.noise),
        "encoder_layer": getattr(settings.model, "clip_skip", None),
        "author": save.author,
        "description": save.description,
        "license": save.license,
        "tags": save.tags,
        "trigger_phrase": settings.dataset.trigger_words,
    }


def _timestep_range(noise: NoiseSettings) -> str | None:
    """ "200,1000" where not all noise levels were trained."""
    low, high = noise.min_timestep, noise.max_timestep
    return None if (low, high) == (0, 1000) else f"{low},{high}"


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    return None if isinstance(value, Path) else value


def _is_path(base: str) -> bool:
    """Anything but the built-in model and a Hugging Face name (owner/name)."""
    owner, slash, name = base.partition("/")
    hub = (
        slash and owner and name and not any(c in base for c in "\\:~") and "/" not in name and owner not in (".", "..")
    )
    return base != "built-in" and not (hub and Path(name).suffix.lower() not in (".safetensors", ".ckpt"))
