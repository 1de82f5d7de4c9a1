"""Training parameters: what most people change first, the rest folded away."""

import gradio as gr

from app.folder_view import Wanted
from app.i18n import t
from app.live import Look, layers_html, plan_html, scale_html, trained_html
from app.page import Ui
from app.rate_curve import curve_html
from app.widgets import rate_range, sweep
from lora_core.i18n import Language


def build(ui: Ui) -> None:
    _basic(ui)
    _images(ui)
    _captions(ui)
    _layers(ui)
    _start(ui)
    _against_over_fitting(ui)
    _validation(ui)
    _loss(ui)
    _masks(ui)
    _noise(ui)
    _averages(ui)
    _memory(ui)
    _several(ui)
    sweep.build(ui)


def _basic(ui: Ui) -> None:
    form = ui.form
    with gr.Row(equal_height=False, elem_classes="kb-columns"):
        with gr.Column(min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("parameters.network"), elem_classes="kb-title")
            form.field("network.algo")
            with gr.Row():
                form.field("network.rank")
                form.field("network.alpha")
            with gr.Row():
                form.field("network.conv_rank")
                form.field("network.conv_alpha")
            with gr.Row():
                form.field("network.factor")
                form.field("network.full_matrix")
                form.field("network.decompose_both")
            with gr.Row():
                form.field("network.weight_decompose")
                form.field("network.constraint")
            ui.report(scale_html, "scale_note")
        with gr.Column(min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("parameters.length"), elem_classes="kb-title")
            with gr.Row():
                form.field("train.train_batch_size")
                form.field("train.epochs")
            with gr.Row():
                form.field("dataset.resolution")
                form.field("train.max_train_steps")
            ui.report(_plan_only, "plan_note")
    with gr.Row(equal_height=False, elem_classes="kb-columns"):
        with gr.Column(min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("parameters.rates"), elem_classes="kb-title")
            with gr.Row():
                form.field("train.learning_rate")
                form.field("train.unet_lr")
            with gr.Row():
                form.field("train.text_encoder_lr")
                form.field("train.text_encoder_2_lr")
                form.field("train.train_text_encoder")
            ui.report(trained_html, "trained_note")
            rate_range.build(ui)
        with gr.Column(min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("parameters.optimizer"), elem_classes="kb-title")
            with gr.Row():
                form.field("optimizer.name")
                form.field("schedule.name")
            with gr.Row():
                form.field("schedule.warmup")
                form.field("schedule.warmup_steps")
                form.field("schedule.min_lr_ratio")
                form.field("schedule.decay")
                form.field("schedule.decay_steps")
                form.field("schedule.timescale")
                form.field("schedule.num_cycles")
                form.field("schedule.power")
            form.field("schedule.step_rules")
            ui.report(curve_html, "schedule_curve")
            with gr.Row():
                form.field("optimizer.weight_decay")
                form.field("optimizer.d_coef")
                form.field("optimizer.relative_step")
                form.field("optimizer.class_path")
            form.field("optimizer.args")
    with gr.Column(elem_classes="kb-section"), gr.Row():
        form.field("train.seed")
        form.field("train.mixed_precision")
        form.field("train.device")


def _plan_only(look: Look, language: Language) -> str:
    return plan_html(look.found.plan, language)


def _images(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.images"):
        with gr.Row():
            form.field("dataset.enable_bucket")
            form.field("dataset.bucket_no_upscale")
        with gr.Row():
            form.field("dataset.min_bucket_reso")
            form.field("dataset.max_bucket_reso")
            form.field("dataset.bucket_reso_steps")
        with gr.Row():
            form.field("dataset.flip_aug")
            form.field("dataset.random_crop")
            form.field("dataset.skip_bad_images")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=220):
                form.field("dataset.cache_latents")
            with gr.Column(scale=2, min_width=320):
                ui.picker.field(form, "dataset.cache_dir", Wanted("folder"))


def _captions(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.captions"):
        with gr.Row():
            form.field("dataset.caption_extension")
            form.field("dataset.keep_tokens")
            form.field("dataset.shuffle_caption")
        with gr.Row():
            form.field("dataset.caption_dropout_rate")
            form.field("dataset.caption_dropout_every_n_epochs")
        with gr.Row():
            form.field("dataset.caption_prefix")
            form.field("dataset.caption_suffix")
        with gr.Row():
            form.field("dataset.caption_tag_dropout_rate")
            form.field("dataset.token_warmup_step")
            form.field("dataset.token_warmup_min")
        with gr.Row():
            form.field("dataset.keep_tokens_separator")
            form.field("dataset.caption_separator")
            form.field("dataset.secondary_separator")
        with gr.Row():
            form.field("dataset.enable_wildcard")
            form.field("dataset.weighted_captions")


def _layers(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.layers"):
        with gr.Row():
            form.field("network.include")
            form.field("network.exclude")
        with gr.Row():
            form.field("network.block_ranks")
            form.field("network.block_alphas")
        with gr.Row():
            form.field("network.block_conv_ranks")
            form.field("network.block_conv_alphas")
        form.field("network.block_lrs")
        ui.report(layers_html, "layers_note")
        with gr.Row():
            form.field("network.loraplus_ratio")
            form.field("network.loraplus_unet_ratio")
            form.field("network.loraplus_text_encoder_ratio")


def _start(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.start"):
        with gr.Row():
            form.field("network.rs_lora")
            form.field("network.init")
        ui.picker.field(form, "network.network_weights", Wanted("file", (".safetensors",)))
        form.field("network.dim_from_weights")
        form.field("network.base_weights")


def _against_over_fitting(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.dropout"):
        with gr.Row():
            form.field("network.network_dropout")
            form.field("network.rank_dropout")
        with gr.Row():
            form.field("network.module_dropout")
            form.field("network.scale_weight_norms")


def _validation(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.validation"):
        with gr.Row():
            form.field("validation.every_n_epochs")
            form.field("validation.split")
            form.field("validation.fold")
            form.field("validation.seed")
        ui.picker.field(form, "validation.folder", Wanted("folder"))
        with gr.Row():
            form.field("validation.patience")
            form.field("validation.keep_best")
        with gr.Row():
            form.field("validation.max_pictures")
            form.field("validation.timesteps")
            form.field("validation.noise_draws")
        with gr.Row(equal_height=False):
            form.field("validation.class_prompt")
            form.field("validation.unrelated_prompts")


def _loss(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.loss"):
        with gr.Row():
            form.field("loss.min_snr_gamma")
            form.field("loss.prior_loss_weight")
            form.field("train.max_grad_norm")
        with gr.Row():
            form.field("loss.loss_type")
            form.field("loss.huber_schedule")
        with gr.Row():
            form.field("loss.huber_c")
            form.field("loss.huber_scale")
            form.field("loss.v_pred_like_loss")
        with gr.Row():
            form.field("loss.debiased_estimation_loss")
            form.field("loss.scale_v_pred_loss_like_noise_pred")


def _masks(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.masks"):
        with gr.Row():
            form.field("loss.masked_loss")
            form.field("loss.unmasked_weight")
            form.field("loss.pair_outside")
        ui.picker.field(form, "dataset.mask_dir", Wanted("folder"))
        with gr.Row():
            form.field("loss.prior_preservation")
            form.field("loss.prior_words")


def _noise(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.noise"):
        with gr.Row():
            form.field("noise.noise_offset_type")
            form.field("noise.noise_offset")
            form.field("noise.adaptive_noise_scale")
        with gr.Row():
            form.field("noise.multires_noise_iterations")
            form.field("noise.multires_noise_discount")
            form.field("noise.ip_noise_gamma")
        with gr.Row():
            form.field("noise.min_timestep")
            form.field("noise.max_timestep")
            form.field("noise.zero_terminal_snr")
        with gr.Row():
            form.field("noise.timestep_sampling")
            form.field("noise.sigmoid_scale")
            form.field("noise.discrete_flow_shift")
        with gr.Row():
            form.field("noise.logit_mean")
            form.field("noise.logit_std")
        with gr.Row():
            form.field("noise.noise_offset_random_strength")
            form.field("noise.ip_noise_gamma_random_strength")


def _memory(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.memory"):
        with gr.Row():
            form.field("train.gradient_accumulation_steps")
            form.field("train.gradient_checkpointing")
            form.field("train.base_precision")
        with gr.Row():
            form.field("train.adapter_precision")
            form.field("train.cache_text_encoder_outputs")


def _averages(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.averages"):
        with gr.Row():
            form.field("train.stop_text_encoder_training")
            form.field("train.stop_text_encoder_steps")
        with gr.Row():
            form.field("train.ema_decay")
            form.field("train.ema_save")


def _several(ui: Ui) -> None:
    form = ui.form
    with ui.advanced("parameters.several"):
        with gr.Row():
            form.field("launch.processes")
            form.field("launch.gpu_ids")
            form.field("launch.threads")
        with gr.Row():
            form.field("launch.machines")
            form.field("launch.machine_rank")
            form.field("launch.main_address")
            form.field("launch.main_port")
        ui.picker.field(form, "launch.config_file", Wanted("file", (".yaml", ".yml", ".json")))
        form.field("launch.extra_args")
