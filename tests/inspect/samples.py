"""LoRA files as training leaves them: singular values that fall, layers of different strength."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lora_core.io.arrays import Array, Precision, save_arrays
from tests.merge import makers

State = dict[str, Array]


def trained(
    family: str = "sd1",
    size: str = "full",
    *,
    rank: int = 8,
    alpha: float | None = 4.0,
    spread: float = 0.5,
    text: float = 0.4,
    seed: int = 0,
    only: str = "",
) -> State:
    """A plain LoRA or LoCon. ``spread``: standard deviation of the layers' log strength; ``text``: strength of text
    encoders against the denoiser's; ``only``: what names must begin with."""
    rng = np.random.default_rng(seed)
    falling = np.float32(1) / np.sqrt(1 + np.arange(rank, dtype=np.float32))
    state: State = {}
    for name, shape in makers.layers_of(family, size).items():  # type: ignore[arg-type]
        if not name.startswith(only):
            continue
        tensors = makers.layer_tensors("lora", shape, rank, alpha, rng)
        scale = np.float32(np.exp(spread * rng.standard_normal()) * (text if "lora_te" in name else 1.0))
        tensors["lora_up.weight"] *= scale * falling.reshape(-1, *[1] * (len(shape) - 2))
        state |= {f"{name}.{tensor}": values for tensor, values in tensors.items()}
    return state


def metadata(family: str = "sd1", rank: int = 8, alpha: float | None = 4.0, **more: str) -> dict[str, str]:
    """What sd-scripts would write of it."""
    return makers.METADATA[family] | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha if alpha is not None else float(rank)),
        "ss_tag_frequency": json.dumps({"10_cat": {"cat": 20}}),
        **more,
    }


def write(
    path: Path, state: Mapping[str, Array], meta: Mapping[str, str] | None = None, precision: Precision = "fp16"
) -> Path:
    save_arrays(state, metadata() if meta is None else meta, path, precision)
    return path


def layers(state: Mapping[str, Array]) -> list[str]:
    """Names of the layers in a state."""
    return list(dict.fromkeys(key.split(".")[0] for key in state))
