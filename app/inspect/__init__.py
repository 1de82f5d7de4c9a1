"""The Inspect tab without its layout: reports as HTML, settings read from LoRAs, the tools that put one right."""
