"""Guided flows: what somebody answers in a few words, turned into ordinary settings and jobs. Torch-free."""
