"""What the demo's LoRA learns and what it leaves alone, with and without regularisation pictures.

Trains both on the built-in model (a few minutes on two processor cores) and measures, at fixed noise, the denoising
loss
on held-out pictures of the character and how far the predictions for the class move from the base model.

    python benchmarks/demo_numbers.py
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_core.demo import HELDOUT, REGULARISATION
from lora_core.demo.experiment import Experiment
from lora_core.demo.run import demo_settings
from lora_core.train.files import final_file
from lora_core.train.loop import train

QUIET = ["sample.every_n_epochs=", "sample.at_start=false", "save.save_every_n_epochs="]
VARIANTS = {
    "with regularisation": [],
    # Twice the epochs, so that both see the character equally often per step and take the same number of steps.
    "without regularisation": ["dataset.reg_dir=", "train.epochs=8"],
}


def main() -> None:
    print(f"{'':24}{'steps':>7}{'held-out loss':>16}{'change of bear':>16}")
    with tempfile.TemporaryDirectory() as folder:
        for index, (name, overrides) in enumerate(VARIANTS.items()):
            settings = demo_settings(Path(folder) / str(index), [*QUIET, *overrides])
            steps = [event.step for event in train(settings) if event.type == "run_finished"]
            found = Experiment.load(settings, final_file(settings.save)).numbers(
                HELDOUT, REGULARISATION / "1_bear", "bear"
            )
            if index == 0:
                print(f"{'base model':24}{0:>7}{found['heldout_loss_before']:>16.4f}{0:>16.4f}")
            print(f"{name:24}{steps[0]:>7}{found['heldout_loss_after']:>16.4f}{found['class_drift']:>16.4f}")


if __name__ == "__main__":
    main()
