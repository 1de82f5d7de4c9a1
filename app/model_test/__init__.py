"""What the Model test tab does: pictures with LoRAs, and grids of saved epochs."""
