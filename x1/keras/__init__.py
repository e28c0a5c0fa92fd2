"""Keras's way of writing a network down and training it, on X1.

>>> from x1.keras.models import Sequential                       # doctest: +SKIP
>>> from x1.keras.layers import Conv2D, MaxPooling2D, Flatten, Dense

Names, arguments and defaults are those of Keras 3; `fit` has an argument more: `device="/device:X1"`.
"""

from __future__ import annotations

from x1.keras import callbacks, layers, losses, models, optimizers, utils
from x1.keras.exchange import fit, from_keras, to_keras
from x1.keras.layers import Input
from x1.keras.loading import load
from x1.keras.models import Model, Sequential

__all__ = [
    "Input",
    "Model",
    "Sequential",
    "callbacks",
    "fit",
    "from_keras",
    "layers",
    "load",
    "losses",
    "models",
    "optimizers",
    "to_keras",
    "utils",
]
