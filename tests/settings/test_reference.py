"""The pages docs/settings.md and docs/settings.ja.md are what tools/write_settings_reference.py writes today."""

import subprocess
import sys

from lora_core.runs import PROJECT
from lora_core.settings.fields import fields_of


def test_the_reference_is_up_to_date():
    tool = PROJECT / "tools" / "write_settings_reference.py"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}Run: python tools/write_settings_reference.py"


def test_the_reference_names_every_setting():
    for name in ("settings.md", "settings.ja.md"):
        page = (PROJECT / "docs" / name).read_text(encoding="utf-8")
        assert all(f"`{path}`" in page for path in fields_of())
