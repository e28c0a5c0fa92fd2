"""The layers of Keras that X1 trains, each with Keras's arguments.

What a layer does is declared once, beside its operation (compiler/ops); a class here gives it a name,
arguments and weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final, cast

import numpy as np
from numpy.typing import NDArray

from compiler.train.randomness import normal, uniform
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.records import Frozen

Array = NDArray[np.float32]
INITIALIZERS: Final = (
    *(f"{kind}_{form}" for kind in ("glorot", "he", "lecun") for form in ("uniform", "normal")),
    "zeros",
    "ones",
)
IGNORED: Final = {"data_format": (None, "channels_last"), "dtype": (None, "float32")}
"""Arguments of Keras that have one meaning here, and the values that say it."""


class Tensor(Frozen, eq=False):
    """A value of a functional model: what a layer makes of others."""

    layer: Layer
    inputs: tuple[Tensor, ...] = ()


class Layer:
    """The base of layers: arguments by name or in Keras's order, weights once the model is built."""

    positional: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, *values: Any, name: str | None = None, trainable: bool = True, **arguments: Any
    ) -> None:
        if len(values) > len(self.positional):
            raise TypeError(f"{type(self).__name__} takes {len(self.positional)} arguments without a name")
        given = dict(zip(self.positional, values, strict=False))
        twice = sorted(set(given) & set(arguments))
        if twice:
            raise TypeError(f"{type(self).__name__} got '{twice[0]}' twice")
        self.name, self.trainable = name, trainable
        self.arguments: dict[str, Any] = given | arguments
        self.input_shape: tuple[int, ...] | None = self._taken("input_shape")
        self.initializers: dict[str, str] = {}
        for kind in (*DEFAULTS, "depthwise"):
            chosen = self._taken(f"{kind}_initializer")
            if chosen is not None:
                self.initializers[kind] = _initializer(chosen)
        for key, allowed in IGNORED.items():
            value = self._taken(key)
            if value not in allowed:
                raise UsageError(not_among("keras.layer", f"{key}={value!r} is not supported", str(value),
                                           [str(a) for a in allowed]))  # fmt: skip
        self.arrays: dict[str, Array] = {}
        """The weights, in Keras's order, as they last came from the device."""
        self.most: int | None = None
        """Elements that a weight may have, where a file says its shape."""
        self.model: Any = None
        """Whose device has the weights while it trains."""

    def _taken(self, name: str) -> Any:
        return self.arguments.pop(name, None)

    def __call__(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """The layer applied to one value, or to several."""
        return Tensor(self, (inputs,) if isinstance(inputs, Tensor) else tuple(inputs))

    def __repr__(self) -> str:
        said = ", ".join(f"{k}={v!r}" for k, v in self.arguments.items())
        return f"<{type(self).__name__} {self.name or ''} {said}>"

    @property
    def weights(self) -> list[Array]:
        """The weights, in Keras's order."""
        if self.model is not None:
            self.model.pull()
        return list(self.arrays.values())

    def get_weights(self) -> list[Array]:
        """Copies of the weights, in Keras's order."""
        return [a.copy() for a in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Give other values to the weights.

        Raises:
            UsageError: other numbers or shapes than the layer has.
        """
        if self.model is not None:
            self.model.pull()  # the weights of the others
        self.take(weights)
        if self.model is not None:
            self.model.tuned = True
            self.model.push()

    def take(self, weights: Sequence[Any]) -> None:
        """The same, here alone: a device is not told.

        Raises:
            UsageError: other numbers or shapes than the layer has.
        """
        given = [np.asarray(w, np.float32) for w in weights]
        if [g.shape for g in given] != [a.shape for a in self.arrays.values()]:
            shapes = [list(a.shape) for a in self.arrays.values()]
            message = f"'{self.name}' has weights of the shapes {shapes}"
            said = f"{[list(g.shape) for g in given]}"
            raise UsageError(Diagnostic("keras.weights", f"{message}, not {said}"))
        for name, value in zip(self.arrays, given, strict=True):
            if not np.isfinite(value).all():
                text = f"'{self.name}' would have weights that are NaN or infinite: its {name}"
                raise UsageError(Diagnostic("keras.weights", text, allowed="finite numbers"))
        for name, value in zip(self.arrays, given, strict=True):
            self.arrays[name] = value.copy()

    def belong(self, model: Any) -> None:
        """Be a layer of this model from now on, with the weights that another has trained."""
        if self.model is not model and self.model is not None:
            self.model.pull()
        self.model = model

    def array(self, kind: str, shape: tuple[int, ...], key: tuple[int, int]) -> Array:
        """A weight of that shape, made if there is none yet."""
        if kind not in self.arrays:
            if self.most is not None and math.prod(shape) > self.most:
                text = f"'{self.name}' has a weight of the shape {list(shape)}, more than the file holds"
                raise UsageError(Diagnostic("keras.weights", text))
            self.arrays[kind] = initial(self.initializers.get(kind, DEFAULTS[kind]), shape, key)
        return self.arrays[kind]


DEFAULTS: Final = {
    "kernel": "glorot_uniform",
    "bias": "zeros",
    "gamma": "ones",
    "beta": "zeros",
    "moving_mean": "zeros",
    "moving_variance": "ones",
    "alpha": "zeros",
}
"""Keras's initializers, by what a weight is."""


def plain(value: Any) -> Any:
    """An argument from JSON: lists are tuples."""
    return tuple(plain(v) for v in cast("list[Any]", value)) if isinstance(value, list) else value


def _initializer(chosen: Any) -> str:
    """The name of an initializer: a text, or an object of Keras's."""
    name = chosen if isinstance(chosen, str) else type(chosen).__name__
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()  # GlorotUniform is glorot_uniform
    if plain not in INITIALIZERS:
        raise UsageError(not_among("keras.layer", f"there is no initializer '{name}'", name, INITIALIZERS))
    return plain


def initial(initializer: str, shape: tuple[int, ...], key: tuple[int, int]) -> Array:
    """A new weight; random ones depend on the key alone."""
    kind, _, form = initializer.partition("_")
    if form:
        inputs, outputs = fans(shape)
        square = {"glorot": 6 / (inputs + outputs), "he": 6 / inputs, "lecun": 3 / inputs}[kind]
        if form == "normal":
            return normal(key, shape, float(np.sqrt(square / 3)))
        limit = float(np.sqrt(square))
        return uniform(key, shape, -limit, limit)
    return np.full(shape, 1 if initializer == "ones" else 0, np.float32)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs an output of a weight has, and how many outputs an input, as Keras counts."""
    if len(shape) < 2:
        return (shape[0], shape[0]) if shape else (1, 1)
    field = int(np.prod(shape[:-2]))
    return field * shape[-2], field * shape[-1]


class InputLayer(Layer):
    """Where values come in."""


def Input(shape: Sequence[int], name: str | None = None) -> Tensor:  # noqa: N802  (Keras's name)
    """A value that the caller gives: the shape of one sample."""
    layer = InputLayer(name=name)
    layer.input_shape = tuple(shape)
    return Tensor(layer)


class Conv2D(Layer):
    """Conv2D(filters, kernel_size, strides=1, padding="valid", dilation_rate=1, groups=1, activation,
    use_bias).
    """

    positional = ("filters", "kernel_size", "strides", "padding")


class DepthwiseConv2D(Layer):
    """DepthwiseConv2D(kernel_size, strides=1, padding="valid", depth_multiplier=1, activation, use_bias)."""

    positional = ("kernel_size", "strides", "padding", "depth_multiplier")


class Dense(Layer):
    """Dense(units, activation, use_bias)."""

    positional = ("units", "activation")


class MaxPooling2D(Layer):
    """MaxPooling2D(pool_size=2, strides=None, padding="valid")."""

    positional = ("pool_size", "strides", "padding")


class AveragePooling2D(Layer):
    """AveragePooling2D(pool_size=2, strides=None, padding="valid")."""

    positional = ("pool_size", "strides", "padding")


class GlobalAveragePooling2D(Layer):
    """GlobalAveragePooling2D(keepdims=False)."""


class GlobalMaxPooling2D(Layer):
    """GlobalMaxPooling2D(keepdims=False)."""


class Flatten(Layer):
    """Flatten()."""


class Reshape(Layer):
    """Reshape(target_shape)."""

    positional = ("target_shape",)


class Add(Layer):
    """Add(): the sum of values of one shape."""


class Concatenate(Layer):
    """Concatenate(axis=-1)."""


class ZeroPadding2D(Layer):
    """ZeroPadding2D(padding=1)."""

    positional = ("padding",)


class UpSampling2D(Layer):
    """UpSampling2D(size=2, interpolation="nearest")."""

    positional = ("size",)


class BatchNormalization(Layer):
    """BatchNormalization(axis=-1, momentum=0.99, epsilon=0.001, center=True, scale=True)."""


class Dropout(Layer):
    """Dropout(rate)."""

    positional = ("rate",)


class Activation(Layer):
    """Activation(activation)."""

    positional = ("activation",)


class ReLU(Layer):
    """ReLU(max_value=None)."""

    positional = ("max_value",)


class LeakyReLU(Layer):
    """LeakyReLU(negative_slope=0.3)."""

    positional = ("negative_slope",)


class ELU(Layer):
    """ELU(alpha=1.0)."""

    positional = ("alpha",)


class PReLU(Layer):
    """PReLU(shared_axes=None): slopes per element; with shared_axes=[1, 2] per channel of an image."""

    def __init__(self, shared_axes: int | Sequence[int] | None = None, **arguments: Any) -> None:
        axes = () if shared_axes is None else np.ravel(np.asarray(shared_axes)).tolist()
        super().__init__(shared_axes=tuple(axes), **arguments)


class Softmax(Layer):
    """Softmax()."""
