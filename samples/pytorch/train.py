"""Train a small network on handwritten digits in PyTorch and export it: net.onnx beside this file.

    python train.py MNIST.npz

MNIST.npz holds x_train, y_train, x_test, y_test. Needs torch and onnxscript. About two minutes on one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, with a shortcut around both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both ways, clamped."""
        return torch.relu(x + self.norm(self.pointwise(self.depthwise(x))))


class Net(nn.Module):
    """Digits of 28 x 28 to ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()
        )
        self.blocks = nn.Sequential(Separable(16), nn.MaxPool2d(2), Separable(16))
        self.classify = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.classify(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def main() -> None:
    """Train, print the accuracy after every epoch, export."""
    torch.manual_seed(0)
    with np.load(sys.argv[1]) as data:
        x = torch.from_numpy(data["x_train"].astype(np.float32) / 255).unsqueeze(1)
        y = torch.from_numpy(data["y_train"].astype(np.int64))
        tests = torch.from_numpy(data["x_test"].astype(np.float32) / 255).unsqueeze(1)
        expected = torch.from_numpy(data["y_test"].astype(np.int64))
    net, epochs, batch = Net(), 6, 128
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * (len(x) // batch))
    for epoch in range(epochs):
        net.train()
        for rows in torch.randperm(len(x))[: len(x) // batch * batch].split(batch):
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            right = (net(tests).argmax(1) == expected).float().mean()
        print(f"epoch {epoch + 1}: {100 * right:.2f} %")
    place = Path(__file__).with_name("net.onnx")
    torch.onnx.export(
        net, (x[:1],), place, input_names=["image"], output_names=["logits"], external_data=False, dynamo=True
    )


if __name__ == "__main__":
    main()
