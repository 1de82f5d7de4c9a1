"""Where the built-in mini base model and the sample dataset lie. Torch-free: these are paths only."""

from pathlib import Path

HERE = Path(__file__).resolve().parent

MINI_MODEL: Path = HERE / "mini_model"
"""Stable Diffusion 1.x in small, a diffusers folder; draws 64 px pictures. See docs/mini-model.md."""

DATASET: Path = HERE / "dataset" / "train"
"""Training pictures of the sample character: the parent folder of "20_usu bear"."""

REGULARISATION: Path = HERE / "dataset" / "reg"
"""Regularisation pictures drawn by the mini model itself: the parent folder of "1_bear"."""

HELDOUT: Path = HERE / "dataset" / "heldout"
"""Pictures of the character that training never sees, to measure with; captions in .txt files beside them."""
