"""RunSettings: everything a training run is a function of.

The form, presets, command line, reference and the copy inside a LoRA are derived from these classes. A field's type,
limits and default are here; its title is the English label, its docstring the English help; Japanese stands in
locales/ja/fields.toml under the same dotted path. ``kohya`` names the option of the same meaning in Kohya's GUI.
"""

from typing import Any, Literal

from pydantic import model_validator

from lora_core.settings.base import Settings
from lora_core.settings.dataset import DatasetSettings
from lora_core.settings.launch import LaunchSettings
from lora_core.settings.loss import LossSettings
from lora_core.settings.model import AnyModel, Sd1Model
from lora_core.settings.network import LoraSettings, NetworkSettings
from lora_core.settings.noise import NoiseSettings
from lora_core.settings.optimizer import AdamW8bit, OptimizerSettings
from lora_core.settings.sample import SampleSettings
from lora_core.settings.save import SaveSettings
from lora_core.settings.schedule import Cosine, ScheduleSettings
from lora_core.settings.slider import SliderSettings
from lora_core.settings.train import TrainSettings
from lora_core.settings.validation import ValidationSettings


class RunSettings(Settings):
    """All settings of one training run."""

    version: Literal[2] = 2
    model: AnyModel = Sd1Model()
    dataset: DatasetSettings = DatasetSettings()
    network: NetworkSettings = LoraSettings()
    optimizer: OptimizerSettings = AdamW8bit()
    schedule: ScheduleSettings = Cosine()
    train: TrainSettings = TrainSettings()
    loss: LossSettings = LossSettings()
    noise: NoiseSettings = NoiseSettings()
    slider: SliderSettings = SliderSettings()
    save: SaveSettings = SaveSettings()
    sample: SampleSettings = SampleSettings()
    validation: ValidationSettings = ValidationSettings()
    launch: LaunchSettings = LaunchSettings()

    @property
    def images_per_batch(self) -> int:
        """Images that all processes together take in one forward pass."""
        return self.train.train_batch_size * self.launch.processes

    @property
    def draws_its_pictures(self) -> bool:
        """Whether the model draws what it is trained on: a concept slider without an image folder."""
        return self.slider.is_on and not self.dataset.has_pictures

    @property
    def is_two_way(self) -> bool:
        """Whether the LoRA is trained at strength -1, too, and so is meant to be used on both sides of 0."""
        return self.slider.is_on or self.dataset.has_pair

    @model_validator(mode="before")
    @classmethod
    def _usual_variants(cls, tree: Any) -> Any:
        """A network without a type is a LoRA, a model without one Stable Diffusion 1."""
        usual = {"network": {"algo": "lora"}, "model": {"family": "sd1"}}
        said = {s: tree[s] for s in usual if isinstance(tree, dict) and isinstance(tree.get(s), dict)}
        return tree | {section: usual[section] | given for section, given in said.items()} if said else tree
