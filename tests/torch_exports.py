"""Networks as PyTorch exports them, with random weights: python -m tests.torch_exports FOLDER.

Each is written by the old exporter and by the new one. It needs torch and onnxscript, which nothing else here
does: the files are made once, then compiled and verified by tests/differential/test_torch_exports.py.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

torch: Any = importlib.import_module("torch")
nn: Any = torch.nn
F: Any = torch.nn.functional
SHAPE: Final = (1, 3, 32, 32)


class Of(nn.Module):  # pyright: ignore[reportUntypedBaseClass]
    """A module made of parts and of what it does with them."""

    def __init__(self, forward: Callable[[Any, Any], Any], **parts: Any) -> None:
        nn.Module.__init__(self)
        for name, part in parts.items():
            setattr(self, name, part)
        self.does = forward

    def forward(self, x: Any) -> Any:
        return self.does(self, x)


def conv(cin: int, cout: int, k: int = 3, s: int = 1, groups: int = 1, act: Any = None) -> Any:
    made = [nn.Conv2d(cin, cout, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*made, *([act()] if act else []))


def squeeze(c: int, gate: Any = nn.Hardsigmoid) -> Any:
    return Of(lambda m, x: x * m.gate(x), gate=nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c // 4, 1), nn.ReLU(), nn.Conv2d(c // 4, c, 1), gate()))  # fmt: skip


def inverted(c: int, act: Any, gate: Any) -> Any:
    body = nn.Sequential(conv(c, 4 * c, 1, act=act), conv(4 * c, 4 * c, 5, groups=4 * c, act=act), squeeze(4 * c, gate),
                         conv(4 * c, c, 1))  # fmt: skip
    return Of(lambda m, x: x + m.body(x), body=body)


def classified(body: Any, c: int) -> Any:
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))


def mobilenet_v3() -> Any:
    return classified(nn.Sequential(conv(3, 16, 3, 2, act=nn.Hardswish), inverted(16, nn.Hardswish, nn.Hardsigmoid),
                                    conv(16, 24, 3, 2, act=nn.ReLU), inverted(24, nn.ReLU, nn.Hardsigmoid)), 24)  # fmt: skip


def efficientnet() -> Any:
    return classified(nn.Sequential(conv(3, 16, 3, 2, act=nn.SiLU), inverted(16, nn.SiLU, nn.Sigmoid),
                                    nn.Dropout(0.2)), 16)  # fmt: skip


def shufflenet_v2() -> Any:
    def forward(m: Any, x: Any) -> Any:
        a, b = x.chunk(2, dim=1)
        x = torch.cat((a, m.branch(b)), dim=1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)

    branch = nn.Sequential(conv(8, 8, 1, act=nn.ReLU), conv(8, 8, 3, groups=8), conv(8, 8, 1, act=nn.ReLU))
    return classified(nn.Sequential(conv(3, 16, 3, 2, act=nn.ReLU), Of(forward, branch=branch)), 16)


def densenet() -> Any:
    def layer(c: int) -> Any:
        made = nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 8, 3, padding=1, bias=False))
        return Of(lambda m, x: torch.cat((x, m.made(x)), 1), made=made)

    return classified(nn.Sequential(conv(3, 8, 3, 2, act=nn.ReLU), layer(8), layer(16), nn.BatchNorm2d(24), nn.ReLU(),
                                    nn.Conv2d(24, 12, 1), nn.AvgPool2d(2)), 12)  # fmt: skip


def unet(up: str) -> Any:
    def forward(m: Any, x: Any) -> Any:
        first = m.down(x)
        second = m.bottom(F.max_pool2d(first, 2))
        wide = m.up(second) if up == "transposed" else F.interpolate(second, scale_factor=2, mode="bilinear")
        return m.last(torch.cat((first, wide), 1))

    return Of(forward, down=conv(3, 8, act=nn.ReLU), bottom=conv(8, 16, act=nn.ReLU),
              up=nn.ConvTranspose2d(16, 16, 2, 2), last=nn.Conv2d(24, 2, 1))  # fmt: skip


def espcn() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.Tanh(), nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2)
    )


def yolo_v5() -> Any:
    def forward(m: Any, x: Any) -> Any:
        x = m.head(m.body(x))
        n, _, h, w = x.shape
        x = x.view(n, 3, 7, h, w).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
        xy, wh, rest = x.split((2, 2, 3), 4)
        return torch.cat(((xy * 2 + m.grid) * 8, (wh * 2) ** 2 * m.anchors, rest), 4).view(n, -1, 7)

    made = Of(forward, body=conv(3, 16, 3, 4, act=nn.SiLU), head=nn.Conv2d(16, 21, 1))
    made.register_buffer("grid", torch.rand(1, 3, 8, 8, 2))
    made.register_buffer("anchors", torch.rand(1, 3, 1, 1, 2) * 10)
    return made


def yolo_v8() -> Any:
    def forward(m: Any, x: Any) -> Any:
        x = m.body(x)
        box, score = m.box(x), m.score(x)
        n, _, h, w = box.shape
        spread = box.view(n, 4, 8, h * w).transpose(2, 1).softmax(1)
        distance = (spread * m.steps).sum(1)
        low, high = distance.chunk(2, 1)
        return torch.cat(((high - low) * 4, score.view(n, 5, h * w).sigmoid()), 1)

    made = Of(
        forward, body=conv(3, 16, 3, 4, act=nn.SiLU), box=nn.Conv2d(16, 32, 1), score=nn.Conv2d(16, 5, 1)
    )
    made.register_buffer("steps", torch.arange(8.0).view(1, 8, 1, 1))
    return made


def convnext() -> Any:
    def forward(m: Any, x: Any) -> Any:
        y = m.norm(m.depth(x).permute(0, 2, 3, 1))
        return x + (m.gamma * m.narrow(F.gelu(m.wide(y)))).permute(0, 3, 1, 2)

    block = Of(forward, depth=nn.Conv2d(8, 8, 7, padding=3, groups=8), norm=nn.LayerNorm(8), wide=nn.Linear(8, 32),
               narrow=nn.Linear(32, 8), gamma=nn.Parameter(torch.rand(8)))  # fmt: skip
    return classified(nn.Sequential(nn.Conv2d(3, 8, 4, 4), block), 8)


def vit() -> Any:
    def forward(m: Any, x: Any) -> Any:
        x = m.patches(x).flatten(2).transpose(1, 2) + m.place
        n, t, c = x.shape
        q, k, v = m.qkv(m.first(x)).view(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-2, -1) * 0.35).softmax(-1)
        x = x + m.out((a @ v).transpose(1, 2).reshape(n, t, c))
        x = x + m.narrow(F.gelu(m.wide(m.second(x))))
        return m.last(x.mean(1))

    return Of(forward, patches=nn.Conv2d(3, 16, 8, 8), place=nn.Parameter(torch.rand(1, 16, 16)), qkv=nn.Linear(16, 48),
              first=nn.LayerNorm(16), second=nn.LayerNorm(16), out=nn.Linear(16, 16), wide=nn.Linear(16, 32),
              narrow=nn.Linear(32, 16), last=nn.Linear(16, 10))  # fmt: skip


def group_norm() -> Any:
    return classified(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 8, 3),
                                    nn.InstanceNorm2d(8, affine=True), nn.ReLU()), 8)  # fmt: skip


def embedding() -> Any:
    body = nn.Sequential(
        conv(3, 8, 3, 2, act=nn.PReLU), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16)
    )
    return Of(lambda m, x: F.normalize(m.body(x), dim=1), body=body)


def log_softmax() -> Any:
    return nn.Sequential(classified(conv(3, 8, 3, 2, act=nn.ReLU6), 8), nn.LogSoftmax(1))


def interpolated() -> Any:
    return Of(lambda m, x: m.last(F.interpolate(m.first(x), scale_factor=1.5, mode="bilinear", align_corners=True)),
              first=conv(3, 6, act=nn.ReLU), last=nn.Conv2d(6, 2, 3))  # fmt: skip


NETWORKS: Final[dict[str, Callable[[], Any]]] = {
    made.__name__: made
    for made in (mobilenet_v3, shufflenet_v2, efficientnet, densenet, espcn, yolo_v5, yolo_v8, convnext, vit, group_norm,
                 embedding, log_softmax, interpolated)
} | {"unet_transposed": lambda: unet("transposed"), "unet_bilinear": lambda: unet("bilinear")}  # fmt: skip


def export(folder: Path) -> None:
    """Write every network in both ways."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in NETWORKS.items():
        for new in (False, True):
            torch.manual_seed(0)
            made = make().eval()
            for part in made.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.running_mean.normal_(0, 0.2)
                    part.running_var.uniform_(0.5, 2)
            place = folder / f"{name}.{'new' if new else 'old'}.onnx"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    made, (torch.rand(SHAPE),), str(place), dynamo=new, input_names=["x"], output_names=["y"]
                )


if __name__ == "__main__":
    export(Path(sys.argv[1]))
