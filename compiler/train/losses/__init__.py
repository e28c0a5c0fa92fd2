"""The losses of training, a file each."""
