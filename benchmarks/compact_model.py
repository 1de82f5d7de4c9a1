"""What keeping the source model in 8 or 4 bits saves, and what it costs: memory of the real models, loss of a training.

The memory is worked out from the layers of the real models (lora_core/merge/known.py): those inside blocks in codes,
the rest in 16 bits. The loss is that of the demo on the built-in model, on pictures that are never trained on, with the
same seed and noise for each storage.

    python benchmarks/compact_model.py [--epochs 2]
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_core.demo import HELDOUT
from lora_core.events import ValidationDone
from lora_core.merge.known import layers
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import find_preset, lay_over
from lora_core.train.loop import train

BITS = {"full": 16.0, "int8": 8 + 32 / 128, "nf4": 4 + 32 / 64}
"""A weight, its share of the factors included."""
MODELS = {"sd1": "Stable Diffusion 1.5", "sdxl": "SDXL", "flux": "FLUX.1 dev"}


def gigabytes(family: str, storage: str) -> float:
    """GiB of the denoiser's linear and convolution layers; norms and biases are thousandths of them."""
    shapes = {name: shape for name, shape in layers(family).items() if name.startswith("lora_unet_")}
    total = 0.0
    for name, shape in shapes.items():
        inside = len(shape) == 2 and "block" in name
        total += math.prod(shape) * (BITS[storage] if inside else BITS["full"])
    return total / 8 / 2**30


def held_out_loss(storage: str, epochs: int, folder: Path) -> tuple[float, float]:
    """Before the first step, and after the last."""
    changes = {
        "train.base_precision": storage,
        "train.epochs": epochs,
        "sample.prompts": "",
        "validation.every_n_epochs": epochs,
        "validation.folder": HELDOUT,
        "save.output_dir": folder / storage,
    }
    settings = with_values(lay_over(RunSettings(), find_preset("demo")), changes)
    found = [event.generalisation for event in train(settings) if isinstance(event, ValidationDone)]
    return found[0] or math.nan, found[-1] or math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    epochs = parser.parse_args().epochs
    print("| source model in memory |", " | ".join(MODELS.values()), "| held-out loss, demo | before |")
    print("| --- |", " | ".join("---:" for _ in MODELS), "| ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for storage in BITS:
            sizes = " | ".join(f"{gigabytes(family, storage):.1f} GB" for family in MODELS)
            before, after = held_out_loss(storage, epochs, Path(folder))
            print(f"| {storage} | {sizes} | {after:.4f} | {before:.4f} |", flush=True)


if __name__ == "__main__":
    main()
