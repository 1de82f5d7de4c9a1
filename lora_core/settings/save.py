"""What is written, where and how often."""

from typing import Literal

from lora_core.settings.base import FileName, Settings, UserPath, setting


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
