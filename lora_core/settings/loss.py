"""How the model's answer is compared with the right one, and what counts how much."""

from typing import Literal

from lora_core.settings.base import Settings, setting


class LossSettings(Settings):
    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = setting("l2", "Loss type", "loss_type")
    """How an error counts. l2: its square, the usual way. Huber and smooth l1 count large errors less, so that broken or odd pictures spoil less; l1 counts all alike."""
    huber_schedule: Literal["constant", "exponential", "snr"] = setting("snr", "Huber schedule", "huber_schedule")
    """Where Huber and smooth l1 go from square to straight: at the same error for all noise levels (constant), or earlier the more noise there is (exponential, snr)."""
    huber_c: float = setting(0.1, "Huber c", "huber_c", gt=0, le=1)
    """The error from which Huber and smooth l1 count less than the square; with a schedule, at the highest noise. Smaller forgives more."""
    huber_scale: float = setting(1.0, "Huber scale", "huber_scale", gt=0, le=10)
    """Multiplies Huber c for the constant and exponential schedules. Not used for snr."""
    min_snr_gamma: float | None = setting(None, "Min SNR gamma", "min_snr_gamma", gt=0, le=100)
    """Weights the noise levels so that they do not fight each other; 5 is usual. Empty: off."""
    debiased_estimation_loss: bool = setting(False, "Debiased estimation loss", "debiased_estimation_loss")
    """Weights noisy steps up and clear ones down, as an alternative to Min SNR. Learns composition sooner, detail later."""
    scale_v_pred_loss_like_noise_pred: bool = setting(
        False, "Scale v-prediction loss like noise prediction", "scale_v_pred_loss_like_noise_pred"
    )
    """For v-prediction models: weights the noise levels as a model that predicts noise does."""
    v_pred_like_loss: float | None = setting(None, "V-prediction-like loss", "v_pred_like_loss", gt=0, le=1)
    """For models that predict noise: adds this much of the loss a v-prediction model would have, which counts high noise more. Empty: off."""
    masked_loss: Literal["off", "alpha", "folder"] = setting("off", "Masked loss")
    """Trains only part of each picture: what its transparency leaves (alpha), or what is white in a mask picture of the same name (folder). The background is then not learned."""
    unmasked_weight: float = setting(0.0, "Weight outside the mask", ge=0, le=1)
    """How much the masked-out part still counts. 0.1 keeps the background from drifting."""
    pair_outside: float = setting(1.0, "Copier LoRA: hold the rest", ge=0, le=100)
    """How firmly everything outside the changed area stays as it is. Higher keeps more and learns the change more slowly; 0 lets the rest go."""
    prior_loss_weight: float = setting(1.0, "Prior loss weight", "prior_loss_weight", ge=0, le=10)
    """How much the regularisation images count against the training images. 0 turns them off."""
    prior_preservation: float | None = setting(None, "Prior preservation", gt=0, le=10)
    """Keeps the class as the source model knows it, without regularisation images: its own answer to the class words is a second target. 1 is usual; takes about 2.5 times as long and needs more memory. Empty: off."""
    prior_words: str = setting("", "Class words", max_length=500)
    """What prior preservation protects: the word for all of the kind, such as "bear" or "1girl". Empty: pictures without any prompt."""
