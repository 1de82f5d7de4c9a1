"""How long, how fast and on what a run trains."""

from typing import Literal

from lora_core.settings.base import Settings, setting


class TrainSettings(Settings):
    train_batch_size: int = setting(1, "Train batch size", "train_batch_size", ge=1, le=256)
    """Images per step. More is smoother and faster per image but needs more memory."""
    epochs: int = setting(10, "Epoch", "epoch", ge=1, le=100_000)
    """How often the whole set, with repeats, is gone through. This is what runs: there is no hidden limit of steps."""
    max_train_steps: int | None = setting(None, "Max train steps", "max_train_steps", ge=1)
    """Stops after this many steps, even in the middle of an epoch. Empty: the epochs decide."""
    learning_rate: float = setting(1e-4, "Learning rate", "learning_rate", gt=0, le=10)
    """How far each step goes. 0.0001 for AdamW; 1 for Prodigy and DAdaptAdam, which find their own."""
    unet_lr: float | None = setting(None, "U-Net learning rate", "unet_lr", gt=0, le=10)
    """Learning rate of the U-Net. Empty: the learning rate above."""
    train_text_encoder: bool = setting(True, "Train text encoder")
    """Also trains the text encoder: ties the look to the trigger words more strongly. Off: U-Net only."""
    text_encoder_lr: float | None = setting(None, "Text encoder learning rate", "text_encoder_lr", gt=0, le=10)
    """Learning rate of the text encoder. Empty: the learning rate above. Half of it is usual."""
    stop_text_encoder_training: float | None = setting(
        None, "Stop text encoder (% of steps)", "stop_text_encoder_training", gt=0, le=100
    )
    """After this part of the run the text encoder stays as it is: it over-fits sooner than the U-Net. Steps get faster, too. Empty: it learns to the end."""
    stop_text_encoder_steps: int | None = setting(None, "Stop text encoder (steps)", ge=1)
    """The same as a number of steps. Empty: the percentage decides."""
    cache_text_encoder_outputs: Literal["memory", "disk"] = setting("memory", "Cache text encoder outputs")
    """Each caption is encoded once while the text encoder is not trained. On disk, the next run starts without the text encoder."""
    text_encoder_2_lr: float | None = setting(None, "Second text encoder learning rate", gt=0, le=10)
    """Learning rate of SDXL's second, larger text encoder. Empty: that of the first. It breaks sooner than the first: if in doubt, go lower."""
    max_grad_norm: float | None = setting(1.0, "Max grad norm", "max_grad_norm", gt=0)
    """Longer gradients are shortened to this, against jumps. Empty: no limit."""
    gradient_accumulation_steps: int = setting(
        1, "Gradient accumulation steps", "gradient_accumulation_steps", ge=1, le=1024
    )
    """Adds up this many batches before each step: works like a larger batch, without its memory."""
    gradient_checkpointing: bool = setting(False, "Gradient checkpointing", "gradient_checkpointing")
    """Computes part of the network twice instead of keeping it: about half of the memory, about 30% slower."""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = setting("auto", "Mixed precision", "mixed_precision")
    """Number format of the computation. Auto: bf16 where the device does it fast, else fp16 on a graphics card."""
    base_precision: Literal["full", "int8", "nf4"] = setting("full", "Source model in memory")
    """In how many bits the frozen model waits on the card. int8: half the memory of fp16, nearly as exact. nf4: about a quarter, and the LoRA learns on a slightly coarser model. Both are some percent slower. FLUX.1's T5, too."""
    adapter_precision: Literal["float32", "bf16"] = setting("float32", "LoRA weights while training")
    """bf16 halves the memory of the LoRA's weights and gradients. Each step is rounded up or down by chance, so that small steps are not lost."""
    ema_decay: float | None = setting(None, "EMA decay", gt=0, lt=1)
    """Keeps a running average of the LoRA's weights, smoother than the last step; samples are drawn with it. 0.99 for short runs, 0.999 from 2,000 steps. Empty: off."""
    ema_save: Literal["instead", "beside"] = setting("instead", "Save the EMA")
    """The average instead of the plain weights, or beside them in a second file ending in -ema."""
    seed: int | None = setting(42, "Seed", "seed", ge=0, le=2**32 - 1)
    """The same seed and settings give the same LoRA. 0 is a seed like any other. Empty: a new one each time, written down with the run."""
    device: Literal["auto", "cuda", "xpu", "mps", "cpu"] = setting("auto", "Device")
    """Where to compute. Auto: the graphics card if there is one, else the processor."""
