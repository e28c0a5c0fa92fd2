"""Train the sample MNIST network with numpy and write its weights and digit sets.

The network, in Keras terms, is::

    28x28x1 -> Conv2D(32, 3x3, valid, ReLU) -> MaxPool2D(2x2) -> Flatten -> Dense(10)

Usage::

    python train.py --data mnist.npz [--epochs 6] [--seed 1] [--out DIR]

The data file holds ``x_train``, ``y_train``, ``x_test``, and ``y_test``, with the images as
uint8 arrays of shape (count, 28, 28). The script writes three files to DIR:

* ``weights.npz``: the trained parameters, under their Keras names;
* ``digits.npz``: the first 500 test digits and their labels;
* ``calibration.npz``: the first 500 training digits and their labels.

The data, the epochs, and the seed decide the result. Another BLAS library or thread count may
round the matrix products differently: set OPENBLAS_NUM_THREADS=1 to repeat a run exactly.
"""

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Parameters = dict[str, Floats]

IMAGE = 28
KERNEL = 3
POOL = 2
FILTERS = 32
CLASSES = 10
POOLED = (IMAGE - KERNEL + 1) // POOL
FEATURES = POOLED * POOLED * FILTERS

BATCH = 64
EVALUATION_BATCH = 500
SAMPLE_COUNT = 500
DROPOUT = 0.3
FIRST_RATE = 2e-3
LAST_RATE = 2e-5


@dataclass(frozen=True)
class Digits:
    """Images as float32 NHWC in [0, 1], with one label for each."""

    inputs: Floats
    labels: Integers

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self.labels)

    def take(self, which: slice | Integers) -> "Digits":
        """Return the chosen digits."""
        return Digits(self.inputs[which], self.labels[which])


@dataclass(frozen=True)
class Features:
    """The output of the convolution block, with what its gradient needs."""

    columns: Floats
    winners: Integers
    values: Floats


class Adam:
    """The Adam optimizer, updating the parameters in place."""

    def __init__(self, parameters: Parameters, beta1: float = 0.9, beta2: float = 0.999) -> None:
        """Start with zero moments for each parameter."""
        self.parameters: Parameters = parameters
        self.beta1: float = beta1
        self.beta2: float = beta2
        self.steps: int = 0
        self.means: Parameters = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.squares: Parameters = {name: np.zeros_like(p) for name, p in parameters.items()}

    def step(self, gradients: Parameters, rate: float) -> None:
        """Move each parameter against its gradient."""
        self.steps += 1
        # The moments start at zero, so early steps must make up for their bias.
        correction = math.sqrt(1 - self.beta2**self.steps) / (1 - self.beta1**self.steps)
        for name, gradient in gradients.items():
            mean, square = self.means[name], self.squares[name]
            mean += (1 - self.beta1) * (gradient - mean)
            square += (1 - self.beta2) * (gradient * gradient - square)
            self.parameters[name] -= rate * correction * mean / (np.sqrt(square) + 1e-7)


def to_digits(images: NDArray[np.uint8], labels: NDArray[np.integer]) -> Digits:
    """Scale the images to [0, 1] and add the channel axis."""
    inputs = images.astype(np.float32)[..., np.newaxis] / np.float32(255)
    return Digits(inputs, labels.astype(np.int64))


def load_digits(path: Path) -> tuple[Digits, Digits]:
    """Return the training digits and the test digits."""
    with np.load(path, allow_pickle=False) as data:
        train = to_digits(data["x_train"], data["y_train"])
        test = to_digits(data["x_test"], data["y_test"])
    return train, test


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Floats:
    """Draw a kernel the way Keras does by default."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def initial_parameters(rng: np.random.Generator) -> Parameters:
    """Return fresh parameters, named and laid out as in Keras."""
    area = KERNEL * KERNEL
    conv_shape = (KERNEL, KERNEL, 1, FILTERS)
    return {
        "conv2d/kernel": glorot_uniform(rng, conv_shape, area, area * FILTERS),
        "conv2d/bias": np.zeros(FILTERS, np.float32),
        "dense/kernel": glorot_uniform(rng, (FEATURES, CLASSES), FEATURES, CLASSES),
        "dense/bias": np.zeros(CLASSES, np.float32),
    }


def pooled_columns(inputs: Floats) -> Floats:
    """Return the im2col patches, with the positions of a pooling window on the first axis.

    The shape is (POOL * POOL, count * POOLED * POOLED, KERNEL * KERNEL). This order makes the
    pooling a maximum over the first axis.
    """
    patches = sliding_window_view(inputs[..., 0], (KERNEL, KERNEL), axis=(1, 2))
    windows = patches.reshape(-1, POOLED, POOL, POOLED, POOL, KERNEL, KERNEL)
    by_position = windows.transpose(2, 4, 0, 1, 3, 5, 6)
    return by_position.reshape(POOL * POOL, -1, KERNEL * KERNEL)


def extract_features(parameters: Parameters, inputs: Floats) -> Features:
    """Run the convolution, the max pooling, the ReLU, and the flatten.

    The bias and the ReLU come after the pooling: they keep the order of values, so the result
    is the same and they touch a quarter of the elements.
    """
    columns = pooled_columns(inputs)
    products = columns @ parameters["conv2d/kernel"].reshape(-1, FILTERS)
    winners: Integers = products.argmax(axis=0)
    pooled: Floats = products.max(axis=0)
    values = np.maximum(pooled + parameters["conv2d/bias"], np.float32(0))
    return Features(columns, winners, values.reshape(-1, FEATURES))


def classify(parameters: Parameters, features: Floats) -> Floats:
    """Run the dense layer and return the logits."""
    return features @ parameters["dense/kernel"] + parameters["dense/bias"]


def softmax(logits: Floats) -> Floats:
    """Return the class probabilities."""
    largest: Floats = logits.max(axis=1, keepdims=True)
    exponentials: Floats = np.exp(logits - largest)
    totals: Floats = exponentials.sum(axis=1, keepdims=True)
    return exponentials / totals


def logit_gradient(logits: Floats, labels: Integers) -> Floats:
    """Return the gradient of the mean cross-entropy for the logits."""
    gradient = softmax(logits)
    gradient[np.arange(len(labels)), labels] -= 1
    return gradient / np.float32(len(labels))


def conv_gradients(features: Features, gradient: Floats) -> Parameters:
    """Return the gradients of the convolution from the gradient of the features."""
    active = np.where(features.values > 0, gradient, np.float32(0)).reshape(-1, FILTERS)
    kernel = np.zeros((KERNEL * KERNEL, FILTERS), np.float32)
    for position in range(POOL * POOL):
        routed = np.where(features.winners == position, active, np.float32(0))
        kernel += features.columns[position].T @ routed
    return {
        "conv2d/kernel": kernel.reshape(KERNEL, KERNEL, 1, FILTERS),
        "conv2d/bias": active.sum(axis=0),
    }


def dropout_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return a mask that drops some features and scales up the others to match."""
    kept = rng.random(shape, dtype=np.float32) >= DROPOUT
    return kept.astype(np.float32) / np.float32(1 - DROPOUT)


def batch_gradients(parameters: Parameters, batch: Digits, rng: np.random.Generator) -> Parameters:
    """Return the gradients of the mean loss over one batch."""
    features = extract_features(parameters, batch.inputs)
    mask = dropout_mask(rng, features.values.shape)
    dropped: Floats = features.values * mask
    gradient = logit_gradient(classify(parameters, dropped), batch.labels)
    gradients = conv_gradients(features, gradient @ parameters["dense/kernel"].T * mask)
    gradients["dense/kernel"] = dropped.T @ gradient
    gradients["dense/bias"] = gradient.sum(axis=0)
    return gradients


def shuffled_batches(digits: Digits, rng: np.random.Generator) -> Iterator[Digits]:
    """Yield every digit once, in random order."""
    order = rng.permutation(len(digits))
    for start in range(0, len(digits), BATCH):
        yield digits.take(order[start : start + BATCH])


def learning_rate(progress: float) -> float:
    """Return the rate after a fraction of the training, following half a cosine."""
    return LAST_RATE + (FIRST_RATE - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


def accuracy(parameters: Parameters, digits: Digits) -> float:
    """Return the fraction of digits classified correctly."""
    correct = 0
    for start in range(0, len(digits), EVALUATION_BATCH):
        batch = digits.take(slice(start, start + EVALUATION_BATCH))
        logits = classify(parameters, extract_features(parameters, batch.inputs).values)
        correct += int(np.count_nonzero(logits.argmax(axis=1) == batch.labels))
    return correct / len(digits)


def train(digits: Digits, test: Digits, epochs: int, seed: int) -> Parameters:
    """Train the network, printing the test accuracy after each epoch."""
    rng = np.random.default_rng(seed)
    parameters = initial_parameters(rng)
    optimizer = Adam(parameters)
    total_steps = epochs * math.ceil(len(digits) / BATCH)
    started = time.perf_counter()
    for epoch in range(1, epochs + 1):
        for batch in shuffled_batches(digits, rng):
            rate = learning_rate(optimizer.steps / total_steps)
            optimizer.step(batch_gradients(parameters, batch, rng), rate)
        seconds = time.perf_counter() - started
        score = accuracy(parameters, test)
        print(f"epoch {epoch}/{epochs}: test accuracy {score:.2%}, {seconds:.0f} s", flush=True)
    return parameters


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an .npz file so that a reader never sees a partial one."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_sample(path: Path, digits: Digits) -> None:
    """Write the first digits of a set."""
    sample = digits.take(slice(SAMPLE_COUNT))
    save_arrays(path, {"inputs": sample.inputs, "labels": sample.labels})


def natural(text: str) -> int:
    """Parse a whole number of at least zero."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return value


def positive(text: str) -> int:
    """Parse a whole number of at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


class Options(argparse.Namespace):
    """The command line."""

    data: Path = Path()
    epochs: int = 6
    seed: int = 1
    out: Path = Path(__file__).resolve().parent


def parse_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the sample MNIST network.")
    parser.add_argument("--data", type=Path, required=True, help="the MNIST .npz file")
    parser.add_argument("--epochs", type=positive, help="passes over the digits (default: 6)")
    parser.add_argument("--seed", type=natural, help="seed of the random generator (default: 1)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the script's)")
    return parser.parse_args(namespace=Options())


def main() -> None:
    """Train the network and write the three files."""
    options = parse_options()
    digits, test = load_digits(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    parameters = train(digits, test, options.epochs, options.seed)
    save_arrays(options.out / "weights.npz", parameters)
    save_sample(options.out / "digits.npz", test)
    save_sample(options.out / "calibration.npz", digits)


if __name__ == "__main__":
    main()
