"""The metadata keys people's trainers write: to which group a key belongs and what its text means.

ss_*: sd-scripts (train_network.py and the FLUX trainer's update_metadata). sshs_*: hashes that sd-scripts adds.
modelspec.*: Stability's model metadata standard 1.0.1. Labels are ``recipe.<key>`` in locales/.
"""

from collections.abc import Mapping
from typing import Literal

from lora_core.inspect.report import Group

Kind = Literal[
    "auto", "text", "rate", "time", "resolution", "optimizer", "json", "tags", "folders", "buckets", "datasets", "base"
]
"""auto: numbers, True/False, None or text, by its look. text: never a number (names, hashes). rate: a learning rate.
time: seconds since 1970. json: shown as key=value. tags, folders, buckets, datasets: told in
full elsewhere, in short here. base: a code of sd-scripts for the base model."""


def _rows(group: Group, **kinds: str) -> dict[str, tuple[Group, Kind]]:
    return {key: (group, kind) for kind, keys in kinds.items() for key in keys.split()}  # type: ignore[misc]


KEYS: Mapping[str, tuple[Group, Kind]] = {
    **_rows(
        "model",
        base="ss_base_model_version",
        text="ss_sd_model_name ss_sd_model_hash ss_new_sd_model_hash ss_vae_name ss_vae_hash ss_new_vae_hash "
        "ss_model_type modelspec.architecture modelspec.implementation modelspec.prediction_type",
        auto="ss_v2 ss_clip_skip ss_max_token_length modelspec.encoder_layer",
    ),
    **_rows(
        "network",
        text="ss_network_module",
        auto="ss_network_dim ss_network_alpha ss_network_dropout ss_scale_weight_norms",
        json="ss_network_args",
    ),
    **_rows(
        "optimisation",
        optimizer="ss_optimizer",
        rate="ss_learning_rate ss_unet_lr ss_text_encoder_lr",
        text="ss_lr_scheduler ss_mixed_precision",
        auto="ss_lr_warmup_steps ss_steps ss_max_train_steps ss_epoch ss_num_epochs ss_num_batches_per_epoch "
        "ss_gradient_checkpointing ss_gradient_accumulation_steps ss_max_grad_norm ss_full_fp16 ss_full_bf16 "
        "ss_fp8_base ss_fp8_base_unet ss_lowram ss_seed ss_validation_seed ss_validation_split "
        "ss_max_validation_steps ss_validate_every_n_epochs ss_validate_every_n_steps",
    ),
    **_rows(
        "data",
        folders="ss_dataset_dirs ss_reg_dataset_dirs",
        tags="ss_tag_frequency",
        buckets="ss_bucket_info",
        resolution="ss_resolution modelspec.resolution",
        text="ss_resize_interpolation",
        datasets="ss_datasets",
        auto="ss_num_train_images ss_num_reg_images ss_num_validation_images ss_batch_size_per_device "
        "ss_total_batch_size ss_cache_latents ss_enable_bucket ss_bucket_no_upscale ss_min_bucket_reso "
        "ss_max_bucket_reso ss_shuffle_caption ss_keep_tokens ss_color_aug ss_flip_aug ss_random_crop "
        "ss_face_crop_aug_range ss_caption_dropout_rate ss_caption_dropout_every_n_epochs "
        "ss_caption_tag_dropout_rate ss_prior_loss_weight",
    ),
    **_rows(
        "noise",
        text="ss_loss_type ss_huber_schedule ss_weighting_scheme ss_timestep_sampling ss_model_prediction_type "
        "modelspec.timestep_range",
        auto="ss_noise_offset ss_noise_offset_random_strength ss_adaptive_noise_scale ss_multires_noise_iterations "
        "ss_multires_noise_discount ss_ip_noise_gamma ss_ip_noise_gamma_random_strength ss_zero_terminal_snr "
        "ss_min_snr_gamma ss_debiased_estimation ss_huber_scale ss_huber_c ss_apply_t5_attn_mask ss_logit_mean "
        "ss_logit_std ss_mode_scale ss_guidance_scale ss_sigmoid_scale ss_discrete_flow_shift",
    ),
    **_rows(
        "saving",
        time="ss_training_started_at ss_training_finished_at",
        text="ss_output_name ss_training_comment ss_session_id ss_sd_scripts_commit_hash sshs_model_hash "
        "sshs_legacy_hash modelspec.title modelspec.author modelspec.description modelspec.license modelspec.tags "
        "modelspec.usage_hint modelspec.trigger_phrase modelspec.date modelspec.merged_from modelspec.sai_model_spec "
        "modelspec.implementation_version modelspec.preprocessor modelspec.hash_sha256 kumakobo_version",
        auto="modelspec.is_negative_embedding",
    ),
}

ELSEWHERE = frozenset({"kumakobo_settings", "kumakobo_recipe", "modelspec.thumbnail", "format"})
"""Keys told in other fields of the report (or, as format, telling nothing)."""

BASE_MODELS: Mapping[str, str] = {
    "sd_v1": "Stable Diffusion 1.x",
    "sd_v1_v": "Stable Diffusion 1.x (v-prediction)",
    "sd_v2": "Stable Diffusion 2.x",
    "sd_v2_v": "Stable Diffusion 2.x (v-prediction)",
    "sdxl_base_v0-9": "SDXL 0.9",
    "sdxl_base_v1-0": "SDXL 1.0",
    "sd3": "Stable Diffusion 3",
    "sd3_m": "Stable Diffusion 3 medium",
    "sd3_5_m": "Stable Diffusion 3.5 medium",
    "sd3_5_l": "Stable Diffusion 3.5 large",
    "flux1": "FLUX.1",
    "chroma": "Chroma",
}
"""sd-scripts' codes."""
