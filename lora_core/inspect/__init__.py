"""What a LoRA file is, how it was trained, what is wrong with it, and how two differ. Torch-free."""
