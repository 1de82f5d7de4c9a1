"""The one declaration of every setting."""

from lora_core.settings.base import Settings, sides
from lora_core.settings.dataset import DatasetSettings
from lora_core.settings.launch import LaunchSettings
from lora_core.settings.loss import LossSettings
from lora_core.settings.model import AnyModel, FluxModel, ModelSettings, Sd1Model, Sd2Model, SdxlModel
from lora_core.settings.network import (
    DoraSettings,
    LoconSettings,
    LohaSettings,
    LokrSettings,
    LoraSettings,
    NetworkSettings,
    OftSettings,
)
from lora_core.settings.noise import NoiseSettings
from lora_core.settings.optimizer import FINDS_ITS_OWN_RATE, OptimizerSettings, parse_args
from lora_core.settings.run import RunSettings
from lora_core.settings.sample import SampleSettings
from lora_core.settings.save import SaveSettings
from lora_core.settings.schedule import ScheduleSettings
from lora_core.settings.slider import SliderSettings
from lora_core.settings.train import TrainSettings
from lora_core.settings.validation import ValidationSettings

__all__ = [
    "FINDS_ITS_OWN_RATE",
    "AnyModel",
    "DatasetSettings",
    "DoraSettings",
    "FluxModel",
    "LaunchSettings",
    "LoconSettings",
    "LohaSettings",
    "LokrSettings",
    "LoraSettings",
    "LossSettings",
    "ModelSettings",
    "NetworkSettings",
    "NoiseSettings",
    "OftSettings",
    "OptimizerSettings",
    "RunSettings",
    "SampleSettings",
    "SaveSettings",
    "ScheduleSettings",
    "Sd1Model",
    "Sd2Model",
    "SdxlModel",
    "Settings",
    "SliderSettings",
    "TrainSettings",
    "ValidationSettings",
    "parse_args",
    "sides",
]
