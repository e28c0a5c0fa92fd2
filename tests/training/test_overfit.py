"""Every kind of layer learns a batch of 64 digits by heart, on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from x1.keras.callbacks import Callback
from x1.keras.layers import (
    ELU,
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Input,
    LeakyReLU,
    MaxPooling2D,
    PReLU,
    ReLU,
    Tensor,
    UpSampling2D,
    ZeroPadding2D,
)
from x1.keras.models import Model
from x1.keras.optimizers import Adam

DIGITS = np.load(Path(__file__).resolve().parents[2] / "samples" / "mnist" / "digits.npz")
X, Y = DIGITS["inputs"][:64], DIGITS["labels"][:64]
MOST_STEPS: Final = 400
Body = Callable[[Tensor], Tensor]


def stem(x: Tensor, **options: Any) -> Tensor:
    return Conv2D(8, 3, strides=2, padding="same", activation="relu", **options)(x)


def split(x: Tensor) -> Tensor:
    return Concatenate()([Conv2D(6, 3, padding="same")(x), AveragePooling2D(3, strides=1, padding="same")(x)])


def skipped(x: Tensor) -> Tensor:
    return Activation("relu")(Add()([x, Conv2D(8, 3, padding="same")(x)]))


BODIES: Final[dict[str, Body]] = {
    "dense": lambda x: Dense(32, activation="relu")(Flatten()(x)),
    "strided": stem,
    "dilated": lambda x: Conv2D(8, 3, dilation_rate=2, activation="relu")(stem(x)),
    "grouped": lambda x: Conv2D(8, 3, groups=4, activation="relu")(stem(x)),
    "depthwise": lambda x: Conv2D(16, 1, activation="relu")(DepthwiseConv2D(3, padding="same")(stem(x))),
    "multiplier": lambda x: DepthwiseConv2D(3, strides=2, depth_multiplier=2, activation="relu")(stem(x)),
    "maximum": lambda x: MaxPooling2D(2)(stem(x)),
    "average": lambda x: AveragePooling2D(3, strides=2, padding="same")(stem(x)),
    "global average": lambda x: GlobalAveragePooling2D()(Conv2D(64, 5, activation="relu")(stem(x))),
    "global maximum": lambda x: GlobalMaxPooling2D()(Conv2D(48, 3, activation="relu")(stem(x))),
    "normalized": lambda x: ReLU()(BatchNormalization()(Conv2D(8, 3, strides=2, use_bias=False)(x))),
    "normalized dense": lambda x: ReLU()(BatchNormalization()(Dense(32)(Flatten()(x)))),
    "residual": lambda x: skipped(stem(x)),
    "joined": lambda x: split(stem(x)),
    "padded": lambda x: Conv2D(8, 3, strides=2)(ZeroPadding2D(2)(stem(x))),
    "upsampled": lambda x: Conv2D(8, 3, strides=2)(UpSampling2D(2)(stem(x))),
    "dropped": lambda x: Dropout(0.1)(stem(x)),
    "relu6": lambda x: ReLU(max_value=6.0)(Conv2D(8, 3, strides=2)(x)),
    "leaky": lambda x: LeakyReLU(0.2)(Conv2D(8, 3, strides=2)(x)),
    "prelu": lambda x: PReLU(shared_axes=[1, 2])(Conv2D(8, 3, strides=2)(x)),
    "prelu by element": lambda x: PReLU()(Conv2D(8, 3, strides=2)(x)),
    "elu": lambda x: ELU()(Conv2D(8, 3, strides=2)(x)),
    "swish": Conv2D(8, 3, strides=2, activation="silu"),
    "sigmoid": Conv2D(8, 3, strides=2, activation="sigmoid"),
    "tanh": Conv2D(8, 3, strides=2, activation="tanh"),
}


class UntilKnown(Callback):
    """Stops when every sample of the batch is recognized in evaluation."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Asked only when training is near."""
        if logs["accuracy"] > 0.98 and epoch % 5 == 0:
            self.model.stop_training = self.model.evaluate(X, Y)[1] == 1


@pytest.mark.nightly
@pytest.mark.parametrize("name", BODIES)
def test_a_batch_of_64_is_learned_by_heart(name: str) -> None:
    given = Input((28, 28, 1))
    body = BODIES[name](given)
    model = Model(given, Dense(10, activation="softmax")(Flatten()(body)))
    model.compile(
        Adam(0.01 if name == "global average" else 0.005), "sparse_categorical_crossentropy", ["accuracy"]
    )
    model.fit(X, Y, batch_size=64, epochs=MOST_STEPS, verbose=0, callbacks=[UntilKnown()])
    assert model.evaluate(X, Y)[1] == 1
