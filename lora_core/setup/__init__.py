"""Makes and checks the virtual environment, with nothing but the standard library.

The launch scripts run ``python -m lora_core.setup`` with whatever Python they find, before any package is installed.
"""
