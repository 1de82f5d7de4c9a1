"""Trainable changes to a frozen model: one algorithm a file, the network that holds them, names and files."""

from lora_core.adapters.network import ALGORITHMS, AdapterNetwork

__all__ = ["ALGORITHMS", "AdapterNetwork"]
