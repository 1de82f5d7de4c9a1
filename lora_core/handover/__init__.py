"""A LoRA goes to the program one draws with: its file, a picture, what the program's card shows, the words to paste.

Torch-free. ``send`` does it; ``places`` knows the programs, ``words`` what calls a LoRA up, ``cards`` and ``preview``
the files beside it.
"""
