"""Training: the way back through a network, losses, optimizers."""
