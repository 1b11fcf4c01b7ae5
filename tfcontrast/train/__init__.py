"""Drivers of the train modes, the training loop, its callbacks and checkpoints."""
