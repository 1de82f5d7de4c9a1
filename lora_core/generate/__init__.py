"""Drawing pictures with a model, with or without a LoRA."""
