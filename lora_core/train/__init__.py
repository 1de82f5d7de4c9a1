"""Training: what happens at step n is a function of settings, data and state."""
