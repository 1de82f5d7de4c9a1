"""Do the other settings fit FLUX.1? Part of lora_core/checks.py."""

from collections.abc import Callable, Iterator

from lora_core.errors import Problem
from lora_core.settings import RunSettings, sides

Found = Iterator[Problem]

_CELL = 16
"""Pixels per side of one of FLUX.1's tokens: two latents."""


def sizes(settings: RunSettings) -> Found:
    """FLUX.1 reads latents two by two."""
    dataset = settings.dataset
    if settings.model.family != "flux":
        return
    if dataset.enable_bucket and dataset.bucket_reso_steps % _CELL:
        fix = {"dataset.bucket_reso_steps": 64}
        yield Problem("dataset.bucket_reso_steps", "checks.flux_steps", {"step": dataset.bucket_reso_steps}, fix=fix)
    elif not dataset.enable_bucket and any(side % _CELL for side in sides(dataset.resolution)):
        near = ",".join(str(max(16, side // _CELL * _CELL)) for side in sides(dataset.resolution))
        values = {"resolution": dataset.resolution, "near": near}
        yield Problem("dataset.resolution", "checks.flux_resolution", values, fix={"dataset.resolution": near})


def sample_guidance(settings: RunSettings) -> Found:
    """FLUX.1 is told its guidance: Stable Diffusion's 7 makes burnt pictures."""
    guidance = settings.sample.guidance
    if settings.model.family == "flux" and guidance > 6 and settings.sample.prompts.strip():
        values = {"guidance": f"{guidance:g}"}
        yield Problem("sample.guidance", "checks.flux_guidance", values, "warning", {"sample.guidance": 3.5})


COMBINATIONS: tuple[Callable[[RunSettings], Found], ...] = (sizes, sample_guidance)
