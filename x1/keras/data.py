"""Samples and labels as the device takes them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from compiler.ir.types import DType
from compiler.train.randomness import shuffled
from isa import arithmetic
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.records import Frozen
from x1.keras.losses import BINARY, Loss

Array = NDArray[Any]
GREATEST: Final = 127
"""Of the codes of signed samples."""
LEAST: Final = 1e-15
MOST: Final = 1e15
"""Beyond these gradients and their squares, which optimizers keep, leave float32."""
BEYOND: Final = 2.0
"""By how much later samples may exceed the first ones before somebody is warned."""


class Codes(Frozen):
    """What the codes of samples stand for: code * c."""

    dtype: DType
    c: Fraction

    @staticmethod
    def of(x: Array) -> Codes:
        """Bytes as they are, or as 255ths where float samples are such; else signed codes of the greatest."""
        if x.dtype == np.uint8:
            return Codes(DType.U8, Fraction(1))
        if _are_255ths(x):
            return Codes(DType.U8, Fraction(1, 255))
        greatest = float(np.abs(x).max()) if x.size else 1.0
        if greatest and not LEAST <= greatest <= MOST:
            text = f"samples of up to {greatest:g}"
            allowed = f"numbers whose greatest is in {LEAST:g}..{MOST:g}, or 0"
            raise UsageError(Diagnostic("train.data", text, allowed=allowed, remedy="scale them"))
        return Codes(DType.I8, Fraction(greatest or 1.0) / GREATEST)

    def encode(self, x: Array) -> Array:
        """The codes of samples, rounded half to even and saturated."""
        if x.dtype == np.uint8 and self == Codes(DType.U8, Fraction(1)):
            return x
        low, high = (0, 255) if self.dtype is DType.U8 else (-GREATEST - 1, GREATEST)
        scale = np.float32(self.c)
        below = -low * BEYOND * float(scale)
        if x.size and (float(x.max()) > BEYOND * high * float(scale) or float(x.min()) < -below):
            warnings.warn("samples lie far beyond those that the model was trained on", stacklevel=3)
        return arithmetic.quantize(x, scale, 0, low, high).astype(self.dtype.numpy)


def _are_255ths(x: Array) -> bool:
    """Whether every sample is k / 255 in float32, for a whole k of 0..255."""
    single = x.astype(np.float32)
    if not x.size or single.min() < 0 or single.max() > 1:
        return False
    k = np.rint(single * np.float32(255))
    return bool((k / np.float32(255) == single).all())


def _single(found: Array) -> NDArray[np.float32]:
    """Numbers as float32; what it cannot hold is infinite."""
    with np.errstate(over="ignore"):
        return found.astype(np.float32)


def _are_numbers(found: Array) -> bool:
    """Whether all are finite numbers that float32 holds."""
    return found.dtype.kind in "iufb" and bool(np.isfinite(_single(found)).all())


def samples(x: Any, shape: tuple[int, ...], what: str) -> Array:
    """An array of samples of a shape.

    Raises:
        UsageError: another shape, or samples that are no finite numbers.
    """
    found = np.asarray(x)
    if found.shape[1:] != shape:
        text = f"{what} has samples of the shape {list(found.shape[1:])}"
        raise UsageError(Diagnostic("train.data", text, allowed=str(list(shape))))
    if found.dtype.kind not in "fuib":
        raise UsageError(Diagnostic("train.data", f"{what} is of type {found.dtype}", allowed="numbers"))
    if found.dtype == np.uint8:
        return found
    single = _single(found)
    if not np.isfinite(single).all():
        at = int(np.argwhere(~np.isfinite(single.reshape(len(single), -1)).all(axis=1))[0, 0])
        text = f"{what}: sample {at} holds NaN, infinity, or what float32 cannot hold"
        raise UsageError(Diagnostic("train.data", text))
    return single


def labels(y: Any, count: int, classes: int, loss: Loss, what: str) -> Array:
    """The classes of samples, or a number for each value that the network gives.

    Raises:
        UsageError: another number of labels, another form than the loss takes, or a class that there is not.
    """
    found = np.asarray(y)
    if not loss.of_classes:
        return _numbers(found, count, classes, loss, what)
    if loss.one_hot:
        if (
            found.shape != (count, classes)
            or not ((found == 0) | (found == 1)).all()
            or not (found.sum(axis=1) == 1).all()
        ):
            text = f"{what} of shape {list(found.shape)} is not one-hot"
            remedy = "for numbers of classes: loss='sparse_categorical_crossentropy'"
            raise UsageError(
                Diagnostic(
                    "train.labels", text, allowed=f"[{count}, {classes}] with a 1 in each row", remedy=remedy
                )
            )
        return found.argmax(axis=1).astype(np.int32)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.shape != (count,):
        text = f"{what} has the shape {list(found.shape)}"
        remedy = "for rows with a 1 for the class: loss='categorical_crossentropy'" if found.ndim == 2 else ""
        raise UsageError(Diagnostic("train.labels", text, allowed=f"[{count}]", remedy=remedy))
    whole = found.astype(np.int64) if found.dtype.kind in "iufb" else np.full(count, -1)
    wrong = (whole != found) | (whole < 0) | (whole >= classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        text = f"{what}: label {at} is {found[at]}"
        raise UsageError(Diagnostic("train.labels", text, allowed=f"whole numbers of 0..{classes - 1}"))
    return whole.astype(np.int32)


def _numbers(found: Array, count: int, outputs: int, loss: Loss, what: str) -> Array:
    """A number for each value: any, or 0 and 1."""
    if outputs == 1 and found.shape == (count,):
        found = found[:, None]
    if found.shape != (count, outputs):
        text = f"{what} has the shape {list(found.shape)}"
        raise UsageError(Diagnostic("train.labels", text, allowed=f"[{count}, {outputs}]"))
    if not _are_numbers(found) or (loss.name == BINARY and not ((found == 0) | (found == 1)).all()):
        allowed = "0 and 1" if loss.name == BINARY else "finite numbers"
        raise UsageError(
            Diagnostic("train.labels", f"{what} has other labels than {allowed}", allowed=allowed)
        )
    return found.astype(np.float32)


class Weights(Frozen):
    """By how much samples count: each by its own weight, or by that of its class."""

    of_samples: Any = None
    of_classes: Mapping[int, float] | None = None

    def of(self, y: Array, classes: int, loss: Loss) -> NDArray[np.float32] | None:
        """A weight for each sample; none where nothing says otherwise. A class that is not named counts 1.

        Raises:
            UsageError: another number of weights than samples, weights that are none, classes that there
                are not, or both kinds at once.
        """
        if self.of_samples is not None and self.of_classes is not None:
            text = "class_weight and sample_weight are given at the same time"
            _refuse(text, "one of them", "multiply the weights of samples by those of their classes")
        if self.of_classes is not None:
            if not isinstance(self.of_classes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                _refuse("class_weight is no mapping", "numbers by class", "{0: 1.0, 1: 2.5}")
            return self._by_class(y, classes, loss)
        if self.of_samples is None:
            return None
        found = np.asarray(self.of_samples)
        if found.shape == (len(y), 1):
            found = found[:, 0]
        if found.shape != (len(y),):
            _refuse(f"sample_weight has the shape {list(found.shape)}", f"[{len(y)}]")
        _require_weights("sample_weight", found)
        return found.astype(np.float32)

    def _by_class(self, y: Array, classes: int, loss: Loss) -> NDArray[np.float32]:
        assert self.of_classes is not None
        binary = loss.name == BINARY and classes == 1
        if not loss.of_classes and not binary:
            _refuse(f"class_weight: {loss.name} has no classes", "", "give sample_weight")
        count = 2 if binary else classes
        unknown = [key for key in self.of_classes if key not in range(count)]
        if unknown:
            _refuse(f"class_weight names the class {unknown[0]!r}", f"whole numbers of 0..{count - 1}")
        _require_weights("class_weight", np.asarray(list(self.of_classes.values())))
        each = np.array([self.of_classes.get(k, 1.0) for k in range(count)], np.float32)
        return each[y.reshape(len(y)).astype(np.int64)]


def _require_weights(what: str, found: Array) -> None:
    if not _are_numbers(found) or (found < 0).any():
        _refuse(f"{what} holds other weights than finite numbers of 0 or more", "finite numbers of 0 or more")


def _refuse(text: str, allowed: str, remedy: str = "") -> NoReturn:
    raise UsageError(Diagnostic("train.weights", text, allowed=allowed, remedy=remedy))


class Labelled(Frozen):
    """Samples with labels, and by how much each counts if they do not count alike."""

    x: Array
    y: Array
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, chosen: slice) -> Labelled:
        return Labelled(self.x[chosen], self.y[chosen], self.weights_of(chosen))

    def weights_of(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.float32] | None:
        """The weights of some of them."""
        return None if self.weights is None else self.weights[chosen]


def order_of(count: int, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
    """The order of samples in an epoch."""
    return shuffled((seed, epoch), count) if shuffle else np.arange(count)


def batches(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """The samples of every batch, the last perhaps fewer."""
    for first in range(0, len(order), size):
        yield order[first : first + size]
