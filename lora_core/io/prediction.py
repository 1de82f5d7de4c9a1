"""What a Stable Diffusion file was trained to predict: the noise or the velocity. Torch-free.

A file says so by a marker tensor (NoobAI and others), in its metadata, or by the .yaml that web UIs want beside it.
Stable Diffusion 2 comes in both kinds and says nothing. AUTOMATIC1111 runs the model to find out; ComfyUI looks at one
norm of the U-Net's last transformer, whose biases spread further where velocity was learned (threshold 0.09). That
needs a few hundred bytes of the file, so it is done here too. It is a guess, and ``predicts`` says so.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lora_core.io.tensors import Header

Prediction = Literal["epsilon", "v_prediction"]
PredictionFrom = Literal["file", "weights", "assumed"]

_TELLING = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SPREAD_OF_VELOCITY = 0.09
"""Standard deviation of those biases above which ComfyUI takes the model for one of velocity."""


def predicts(path: Path, header: Header, *, sd2: bool = False) -> tuple[Prediction, PredictionFrom]:
    """What the model predicts, and how that is known. Only files of Stable Diffusion 2 (``sd2``) are guessed at."""
    if said := _said(path, header):
        return said, "file"
    if not sd2:
        return "epsilon", "file"
    if (spread := _spread(path, header)) is not None:
        return ("v_prediction" if spread > _SPREAD_OF_VELOCITY else "epsilon"), "weights"
    return ("epsilon" if re.search(r"512|base", path.stem, re.IGNORECASE) else "v_prediction"), "assumed"


def _said(path: Path, header: Header) -> Prediction | None:
    if "v_pred" in header.tensors:
        return "v_prediction"
    return _in_metadata(header.metadata) or _in_yaml(path)


def _in_metadata(metadata: Mapping[str, str]) -> Prediction | None:
    """By Stability's metadata standard, where Stable Diffusion 2's architecture tells as well."""
    prediction = metadata.get("modelspec.prediction_type", "").lower()
    if prediction in {"v", "v_prediction", "v-prediction"}:
        return "v_prediction"
    if prediction in {"epsilon", "eps"}:
        return "epsilon"
    architecture = metadata.get("modelspec.architecture", "").lower()
    if architecture.startswith("stable-diffusion-v2-768-v"):
        return "v_prediction"
    return "epsilon" if architecture.startswith("stable-diffusion-v2-512") else None


def _in_yaml(path: Path) -> Prediction | None:
    """A configuration of the original code: velocity is said, noise is what it means by saying nothing."""
    try:
        config = path.with_suffix(".yaml").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None
    if re.search(r"^\s*parameterization:\s*[\"']?v[\"']?\s*$", config, re.MULTILINE):
        return "v_prediction"
    return "epsilon" if re.search(r"^\s*(?:unet_config|parameterization):", config, re.MULTILINE) else None


def _spread(path: Path, header: Header) -> float | None:
    """Standard deviation of the telling biases; None where they are not there or can't be read without torch."""
    import numpy as np  # most files need no look at their weights

    from lora_core.io.formats import FLOATS, decode

    name = next((p + _TELLING for p in ("model.diffusion_model.", "") if p + _TELLING in header.spans), None)
    if name is None or header.tensors[name].dtype not in FLOATS:
        return None
    start, end = header.spans[name]
    try:
        with path.open("rb") as file:
            file.seek(start)
            raw = np.frombuffer(file.read(end - start), np.uint8)
    except OSError:
        return None
    info = header.tensors[name]
    return float(decode(raw, info.dtype, info.shape).std()) if len(raw) == end - start and len(raw) else None
