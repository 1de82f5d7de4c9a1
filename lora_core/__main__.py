"""``python -m lora_core`` is the kumakobo command."""

import sys

from lora_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
