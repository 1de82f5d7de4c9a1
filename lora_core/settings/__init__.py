"""The one declaration of every setting."""

from lora_core.settings.base import Settings, sides
from lora_core.settings.network import (
    DoraSettings,
    LoconSettings,
    LohaSettings,
    LokrSettings,
    LoraSettings,
    NetworkSettings,
)
from lora_core.settings.optimizer import FINDS_ITS_OWN_RATE, OptimizerSettings, parse_args
from lora_core.settings.run import (
    DatasetSettings,
    ModelSettings,
    RunSettings,
    SampleSettings,
    SaveSettings,
    TrainSettings,
)
from lora_core.settings.schedule import ScheduleSettings

__all__ = [
    "FINDS_ITS_OWN_RATE",
    "DatasetSettings",
    "DoraSettings",
    "LoconSettings",
    "LohaSettings",
    "LokrSettings",
    "LoraSettings",
    "ModelSettings",
    "NetworkSettings",
    "OptimizerSettings",
    "RunSettings",
    "SampleSettings",
    "SaveSettings",
    "ScheduleSettings",
    "Settings",
    "TrainSettings",
    "parse_args",
    "sides",
]
