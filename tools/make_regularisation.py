"""Draw the sample dataset's regularisation pictures with the mini model: what "bear" means to it before training.

python tools/make_regularisation.py
"""

import argparse
from pathlib import Path

from mini_model import export

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "bear"
BATCH = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "lora_core/demo/dataset/reg/1_bear")
    parser.add_argument("--model", type=Path, default=ROOT / "lora_core/demo/mini_model")
    parser.add_argument("--count", type=int, default=40)
    args = parser.parse_args()
    pipeline = export.load(args.model)
    args.folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, args.count, BATCH):
        numbers = range(first, min(first + BATCH, args.count))
        for number, image in zip(numbers, export.draw(pipeline, [PROMPT], seeds=numbers), strict=True):
            image.save(args.folder / f"bear-{number + 1:02d}.png", optimize=True)


if __name__ == "__main__":
    main()
