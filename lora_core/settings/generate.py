"""Settings of the jobs that draw pictures: single ones, and grids of one thing against another."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from lora_core.settings.base import Settings, SourceModel, UserPath
from lora_core.settings.validation import UNRELATED

SamplerName = Literal["euler_a", "euler", "ddim", "dpmpp_2m_karras", "unipc"]
AxisKind = Literal["lora", "strength", "layers", "replace", "guidance", "sampler", "seed", "steps"]


class LoraUse(Settings):
    """A LoRA file that is drawn with in every picture."""

    path: UserPath = None
    """The LoRA file."""

    strength: float = 1.0
    """As in <lora:name:0.8>. 0 is the base model, -1 the opposite."""

    layers: str = ""
    """Weights by block, as in a merge. Empty means 1 everywhere."""


class PictureSettings(Settings):
    """What every picture of a job has in common."""

    base: SourceModel = "built-in"
    """The model to draw with, of any family: a file, a diffusers folder, or "built-in"."""

    vae: UserPath = None
    clip_l: UserPath = None
    """FLUX.1: the file clip_l.safetensors, where the model does not hold it."""

    t5: UserPath = None
    """FLUX.1: the file t5xxl_fp16.safetensors, where the model does not hold it."""

    clip_skip: int = Field(1, ge=1, le=12)
    """Stable Diffusion 1.x and 2.x: which layer of the text encoder is read, counted from the end."""

    prompts: list[str] = Field(default_factory=list)
    """What to draw, with (weights:1.2) and <lora:name:0.8> as web UIs write them."""

    negative: str = ""
    width: int | None = Field(None, ge=16, le=8192)
    """Empty: the size the model was made for."""

    height: int | None = Field(None, ge=16, le=8192)
    seed: int = Field(1, ge=0, lt=2**32)
    count: int = Field(1, ge=1, le=1000)
    """Pictures of each prompt, each with the next seed."""

    steps: int = Field(28, ge=1, le=1000)
    guidance: float = Field(7.0, ge=0, le=100)
    sampler: SamplerName = "euler_a"
    loras: list[LoraUse] = Field(default_factory=list)
    """LoRAs for every picture; their names may be used in prompts, too, and then count as the prompt says."""

    folders: list[Path] = Field(default_factory=list)
    """Where the LoRAs that prompts name are looked for, with the folders inside."""

    output: UserPath = None
    """The folder for the pictures. Empty: that of the job."""


class GenerateSettings(PictureSettings):
    """Prompts -> pictures."""

    job: Literal["generate"] = "generate"


class Axis(Settings):
    """What differs from row to row, or from column to column."""

    kind: AxisKind = "strength"
    """replace: the first value is a part of the prompt, which each value stands in place of."""

    values: list[str] = Field(default_factory=list)
    """As text: paths of LoRA files, numbers, names of samplers, words of the prompt, layer weights."""


class GridSettings(PictureSettings):
    """A table of pictures for each prompt and seed, as one picture with labels."""

    job: Literal["grid"] = "grid"
    run: UserPath = None
    """The folder with a run's LoRA files. Its saved epochs are the rows, unless ``rows`` says otherwise."""

    run_name: str = ""
    """The output name of the run; needed only where the folder holds several."""

    rows: Axis | None = None
    columns: Axis = Field(default_factory=lambda: Axis(kind="strength", values=["0", "0.5", "0.75", "1"]))
    cache: UserPath = None
    """Where single pictures are kept, so that none is drawn twice. Empty: the folder "cells" beside the grids."""


class ProofSettings(PictureSettings):
    """A LoRA -> whether it does anything: pictures with it and without it, and numbers."""

    job: Literal["proof"] = "proof"
    lora: UserPath = None
    """The LoRA file."""

    strength: float = 1.0
    """As in <lora:name:0.8>."""

    class_prompt: str = ""
    """The word for all of the kind, such as "bear" or "1girl". Empty: no prompt at all."""

    unrelated_prompts: str = UNRELATED
    """One per line: what the LoRA is not about."""

    timesteps: int = Field(8, ge=1, le=64)
    """Noise levels at which the predictions are compared."""
