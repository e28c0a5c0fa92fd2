"""An ONNX file, trained further on the simulated device, and written back as ONNX.

    python samples/training/finetune.py
    python samples/training/finetune.py --model net.onnx --data mnist.npz --epochs 1

Without arguments it is the network of samples/pytorch, in its own layout (channels first). The same from the
command line: `x1 train net.onnx --data samples.npz --lr 1e-4 -o tuned.x1`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from digits import digits

import x1
import x1.keras

OURS = Path(__file__).resolve().parents[1] / "pytorch" / "net.onnx"


def main() -> None:
    """Train, and say what it changed."""
    parser = argparse.ArgumentParser(description="Train an ONNX file further on the simulated device.")
    parser.add_argument("--model", type=Path, default=OURS, help="a float32 network of one input")
    parser.add_argument("--data", type=Path, help="a file like Keras's mnist.npz")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("tuned.onnx"))
    chosen = parser.parse_args()
    x_train, y_train, x_test, y_test = digits(chosen.data)
    x_train, x_test = (x.transpose(0, 3, 1, 2) for x in (x_train, x_test))

    before = x1.train(chosen.model, x_train, y_train, epochs=0)
    print(f"as it is: loss {before.evaluate(x_test, y_test)[0]:.4f}")
    adam = x1.keras.optimizers.Adam(1e-4)
    tuned = x1.train(chosen.model, x_train, y_train, epochs=chosen.epochs, optimizer=adam, verbose=1)
    print(f"tuned: loss {tuned.evaluate(x_test, y_test)[0]:.4f}")
    tuned.export(chosen.output)


if __name__ == "__main__":
    main()
