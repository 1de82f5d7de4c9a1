"""What one does with LoRA files: combine, subtract, bake, extract, resize, convert, clean. numpy only, never torch.

lowrank    the mathematics of up @ down: sums, norms, the best approximation of a given rank
deltas     every algorithm's tensors -> the change of one weight
names      the spellings of layers, and the one used inside
lora       a file as layers; results as files
"""
