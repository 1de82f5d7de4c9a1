"""RunSettings: everything a training run is a function of.

The form, presets, command line, reference and the copy inside a LoRA are derived from these classes. A field's type,
limits and default are here; its title is the English label, its docstring the English help; Japanese stands in
locales/ja/fields.toml under the same dotted path. ``kohya`` names the option of the same meaning in Kohya's GUI.
"""

from typing import Any, Literal

from pydantic import model_validator

from lora_core.settings.base import FileName, Resolution, Settings, SourceModel, UserPath, setting
from lora_core.settings.network import LoraSettings, NetworkSettings
from lora_core.settings.optimizer import AdamW8bit, OptimizerSettings
from lora_core.settings.schedule import Cosine, ScheduleSettings


class ModelSettings(Settings):
    family: Literal["sd1"] = setting("sd1", "Model type")
    """Read from the file itself. Stable Diffusion 1.x for now."""
    base: SourceModel = setting("", "Source model", "pretrained_model_name_or_path", max_length=4096)
    """The model to train on: a .safetensors or .ckpt file, a diffusers folder, or "built-in" for the small model that comes with Kumakobo."""
    vae: UserPath = setting(None, "VAE", "vae")
    """A VAE to use instead of the one inside the source model. Leave empty unless the model's author names one."""
    allow_download: bool = setting(False, "Allow download from Hugging Face")
    """When the source model is a Hugging Face name instead of a path, download it. Off: nothing ever leaves this machine."""
    clip_skip: int = setting(1, "Clip skip", "clip_skip", ge=1, le=12)
    """Which layer of the text encoder is read, counted from the end: 1 is the last, 2 is usual for anime models."""
    max_token_length: Literal[75, 150, 225] = setting(75, "Max token length", "max_token_length")
    """Captions longer than this are cut. 225 reads long captions at a small cost in speed."""


class DatasetSettings(Settings):
    train_dir: UserPath = setting(None, "Image folder", "train_data_dir")
    """The folder that holds folders such as "20_usu bear" (20 repeats, trigger words "usu bear"). A plain folder of images works too."""
    trigger_words: str = setting("", "Trigger words", max_length=500)
    """The words that call up what is trained, for a plain folder of images. Folders named "20_usu bear" carry them in their name."""
    reg_dir: UserPath = setting(None, "Regularisation folder", "reg_data_dir")
    """Optional. Holds folders such as "1_bear" with pictures of the class made by the source model; they keep the LoRA from changing every bear."""
    caption_extension: Literal[".txt", ".caption"] = setting(".txt", "Caption file extension", "caption_extension")
    """A file beside each image with the same name and this ending holds its caption. Images without one use the folder's words."""
    resolution: Resolution = setting("512,512", "Max resolution", "max_resolution")
    """Training size in pixels: one number or width,height. With buckets it is the largest area; more is slower and needs more memory."""
    enable_bucket: bool = setting(True, "Enable buckets", "enable_bucket")
    """Groups images by shape, so that portrait and landscape pictures are not cropped to a square."""
    min_bucket_reso: int = setting(256, "Minimum bucket resolution", "min_bucket_reso", ge=8, le=8192)
    """Shortest side of a bucket, in pixels. Not used while upscaling is off."""
    max_bucket_reso: int = setting(2048, "Maximum bucket resolution", "max_bucket_reso", ge=8, le=8192)
    """Longest side of a bucket, in pixels. Not used while upscaling is off."""
    bucket_reso_steps: int = setting(64, "Bucket resolution steps", "bucket_reso_steps", ge=8, le=1024)
    """Sides of buckets are multiples of this many pixels."""
    bucket_no_upscale: bool = setting(True, "Don't upscale bucket resolution", "bucket_no_upscale")
    """Small images stay small instead of being enlarged. Gives more buckets, some with a single image."""
    flip_aug: bool = setting(False, "Flip augmentation", "flip_aug")
    """Half of the time, the mirrored image is shown. Not for characters that differ left and right, nor for text."""
    random_crop: bool = setting(False, "Random crop instead of centre crop", "random_crop")
    """Cuts a different part each time. Images are then encoded at every step: much slower."""
    shuffle_caption: bool = setting(False, "Shuffle caption", "shuffle_caption")
    """Mixes the comma-separated tags of a caption each time, so that their order is not learned."""
    keep_tokens: int = setting(0, "Keep n tokens", "keep_tokens", ge=0, le=255)
    """The first n tags stay in front when captions are shuffled. 1 keeps the trigger word first."""
    caption_dropout_rate: float = setting(0.0, "Rate of caption dropout", "caption_dropout_rate", ge=0, le=1)
    """Share of steps that train without a caption. 0.05 to 0.1 loosens the tie to the words."""
    caption_dropout_every_n_epochs: int | None = setting(
        None, "Dropout caption every n epochs", "caption_dropout_every_n_epochs", ge=1
    )
    """Every n-th epoch is trained without captions."""
    caption_prefix: str = setting("", "Caption prefix", max_length=1000)
    """Put in front of every caption."""
    caption_suffix: str = setting("", "Caption suffix", max_length=1000)
    """Put behind every caption."""
    cache_latents: Literal["memory", "disk", "off"] = setting("memory", "Cache latents", "cache_latents")
    """Encodes each image once: training is much faster and the VAE leaves the graphics memory. Disk keeps them for the next run."""
    cache_dir: UserPath = setting(None, "Latent cache folder")
    """Where cached latents are kept on disk. Empty: a folder .kumakobo beside the images."""
    skip_bad_images: bool = setting(False, "Skip broken images")
    """Trains without the images that can't be read, after naming them. Off: the run does not start."""


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
    seed: int | None = setting(42, "Seed", "seed", ge=0, le=2**32 - 1)
    """The same seed and settings give the same LoRA. 0 is a seed like any other. Empty: a new one each time, written down with the run."""
    min_snr_gamma: float | None = setting(None, "Min SNR gamma", "min_snr_gamma", gt=0, le=100)
    """Weights the noise levels so that they do not fight each other; 5 is usual. Empty: off."""
    noise_offset: float | None = setting(None, "Noise offset", "noise_offset", gt=0, le=1)
    """Lets the LoRA learn darker and brighter pictures; 0.05 to 0.1. Empty: off."""
    prior_loss_weight: float = setting(1.0, "Prior loss weight", "prior_loss_weight", ge=0, le=10)
    """How much the regularisation images count against the training images. 0 turns them off."""
    device: Literal["auto", "cuda", "xpu", "mps", "cpu"] = setting("auto", "Device")
    """Where to compute. Auto: the graphics card if there is one, else the processor."""


class SaveSettings(Settings):
    output_dir: UserPath = setting(None, "Output folder", "output_dir")
    """Where the LoRA, its samples and its settings are written."""
    output_name: FileName = setting("my_lora", "Output name", "output_name", min_length=1, max_length=120)
    """File name of the LoRA, without ending. It is also the name in <lora:name:1>."""
    overwrite: bool = setting(False, "Overwrite existing files")
    """Off: a run does not start when a file of the same name is there."""
    save_precision: Literal["fp16", "bf16", "float"] = setting("fp16", "Save precision", "save_precision")
    """Number format in the file. fp16 is half the size and read by every program."""
    save_every_n_epochs: int | None = setting(1, "Save every N epochs", "save_every_n_epochs", ge=1)
    """Keeps a LoRA every n epochs, to find where over-fitting begins. Empty: only the last."""
    save_every_n_steps: int | None = setting(None, "Save every N steps", "save_every_n_steps", ge=1)
    """Keeps a LoRA every n steps. Empty: off."""
    keep_last_n: int | None = setting(None, "Keep the last n saves", "save_last_n_epochs", ge=1)
    """Of the files this run saved along the way, older ones are removed. Empty: all stay."""
    save_state: bool = setting(False, "Save training state", "save_state")
    """Writes everything needed to go on exactly from each saved point. Stop and save always does."""
    resume: UserPath = setting(None, "Resume from saved training state", "resume")
    """A folder ending in -state. The run goes on at the next step and ends with the same file as an unbroken run."""
    tensorboard: bool = setting(False, "TensorBoard log", "log_with")
    """Also writes the loss and learning rates for TensorBoard, into the folder log inside the output folder."""
    comment: str = setting("", "Training comment", "training_comment", max_length=2000)
    """Free text kept inside the LoRA."""
    title: str = setting("", "Metadata title", "metadata_title", max_length=300)
    """Title kept inside the LoRA. Empty: the output name."""
    author: str = setting("", "Metadata author", "metadata_author", max_length=300)
    """Author kept inside the LoRA."""
    description: str = setting("", "Metadata description", "metadata_description", max_length=5000)
    """Description kept inside the LoRA."""
    license: str = setting("", "Metadata license", "metadata_license", max_length=300)
    """Licence kept inside the LoRA."""
    tags: str = setting("", "Metadata tags", "metadata_tags", max_length=1000)
    """Tags kept inside the LoRA, separated by commas."""


class SampleSettings(Settings):
    prompts: str = setting("", "Sample prompts", "sample_prompts", max_length=100_000)
    """One picture per line, drawn while training. --n negative, --w width, --h height, --d seed, --l guidance, --s steps. A line beginning with # is left out."""
    every_n_epochs: int | None = setting(1, "Sample every n epochs", "sample_every_n_epochs", ge=1)
    """Draws the prompts every n epochs. Empty: not by epoch."""
    every_n_steps: int | None = setting(None, "Sample every n steps", "sample_every_n_steps", ge=1)
    """Draws the prompts every n steps. Empty: not by step."""
    at_start: bool = setting(True, "Sample at the start", "sample_at_first")
    """Draws the prompts once before training, to compare with."""
    sampler: Literal["euler_a", "euler", "ddim", "dpmpp_2m_karras", "unipc"] = setting(
        "euler_a", "Sampler", "sample_sampler"
    )
    """How the pictures are drawn from noise. Euler a is the web UIs' usual choice."""
    steps: int = setting(28, "Sampling steps", ge=1, le=1000)
    """Steps per picture when the prompt has no --s. 20 to 30 is usual."""
    guidance: float = setting(7.5, "CFG scale", ge=0, le=100)
    """How strictly the prompt is followed when it has no --l."""
    seed: int = setting(1, "Sample seed", ge=0, le=2**32 - 1)
    """Seed of the pictures when the prompt has no --d. The same each time, so that pictures compare."""


class RunSettings(Settings):
    """All settings of one training run."""

    version: Literal[1] = 1
    model: ModelSettings = ModelSettings()
    dataset: DatasetSettings = DatasetSettings()
    network: NetworkSettings = LoraSettings()
    optimizer: OptimizerSettings = AdamW8bit()
    schedule: ScheduleSettings = Cosine()
    train: TrainSettings = TrainSettings()
    save: SaveSettings = SaveSettings()
    sample: SampleSettings = SampleSettings()

    @model_validator(mode="before")
    @classmethod
    def _lora_unless_said(cls, tree: Any) -> Any:
        """A network without a type is a LoRA."""
        network = tree.get("network") if isinstance(tree, dict) else None
        return tree | {"network": {"algo": "lora"} | network} if isinstance(network, dict) else tree
