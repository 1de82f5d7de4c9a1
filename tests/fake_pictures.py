"""The kumakobo command with a picture job that needs no torch: it draws until it is told to go on, in its own words.

The prompt says what it does: "wait" draws until there is a file ``go on`` in the run's folder, "exit" ends the process,
"fail" fails with the model in hand. Anything else is done at once.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lora_core import tools
from lora_core.cli import main
from lora_core.events import StageChanged


def generate(settings, run, shelf):
    """Keeps the name of the model as a shelf does."""
    word = settings.prompts[0]
    shelf._on_change(Path(settings.base).name)
    print(f"drawing {word}", flush=True)
    os.write(2, b"said by a library\n")
    while word == "wait" and not (run.path / "go on").exists():
        yield StageChanged(stage="drawing", done=0, total=1)
        time.sleep(0.02)
    if word == "exit":
        os._exit(3)
    yield StageChanged(stage="drawing", done=1, total=1)
    if word == "fail":
        shelf.is_broken = True  # as of any surprise
        raise MemoryError("CUDA out of memory")


if __name__ == "__main__":
    tools.tool = lambda job: generate
    sys.exit(main())
