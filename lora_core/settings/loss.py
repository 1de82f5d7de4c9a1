"""How the model's answer is compared with the right one, and what counts how much."""

from lora_core.settings.base import Settings, setting


class LossSettings(Settings):
    min_snr_gamma: float | None = setting(None, "Min SNR gamma", "min_snr_gamma", gt=0, le=100)
    """Weights the noise levels so that they do not fight each other; 5 is usual. Empty: off."""
    prior_loss_weight: float = setting(1.0, "Prior loss weight", "prior_loss_weight", ge=0, le=10)
    """How much the regularisation images count against the training images. 0 turns them off."""
