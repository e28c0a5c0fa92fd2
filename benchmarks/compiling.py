"""How long `x1 compile` takes for networks that are quantized already, its memory, and the checker's share.

    python -m benchmarks.compiling [Q.onnx...]

User and system CPU seconds of the whole command, start-up, checker and profile included, on one thread; the
median of several runs, in turn with a yardstick of numpy and plain Python in a process of its own. Runs that
are not counted come first: they leave the bytecode of our modules, as an installed package has it, and give
the checker's share.
Without arguments the networks are random ones of the sizes of ResNet-50 and MobileNetV2 from the test assets
beside the repository, quantized before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.commands import Commands

MOST: Final = {"resnet50": (5.0, 1536.0), "mobilenetv2": (1.5, 1536.0)}
"""CPU seconds and MiB."""
MOST_CHECKED: Final = 0.1
"""Of the time of all stages, that the checker takes."""
YARDSTICK: Final = """
import numpy as np
table = {i: i * 7 % 1013 for i in range(1_000_000)}
for _ in range(5):
    np.sort(np.fromiter(table.values(), np.int64))
"""


def compiled(run: Commands, model: Path, *options: str) -> tuple[float, float]:
    """CPU seconds and MiB of a compilation."""
    output = str(run.folder / "out.x1")
    return run.measured("-m", "x1", "compile", str(model), "-o", output, *options)


def checkers_share(run: Commands, model: Path) -> float:
    """Of the time of all stages, that of the checker."""
    compiled(run, model, "--json")
    stages: dict[str, float] = json.loads(run.said.read_text())["stage_seconds"]
    return stages["check"] / sum(stages.values())


def main() -> int:
    """Print the figures; 1 if one is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("models", nargs="*", type=Path)
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        run = Commands(Path(folder))
        for model in options.models or [run.random_network(name) for name in MOST]:
            share = statistics.median(checkers_share(run, model) for _ in range(3))
            runs = [(compiled(run, model), run.measured("-c", YARDSTICK)) for _ in range(options.runs)]
            seconds = statistics.median(own[0] for own, _ in runs)
            unit = statistics.median(yardstick[0] for _, yardstick in runs)
            memory = max(own[1] for own, _ in runs)
            print(
                f"{model.stem}: {seconds:.2f} s CPU, {memory:.0f} MiB, checker {share:.1%}; "
                f"yardstick {unit:.2f} s, ratio {seconds / unit:.1f}  "
                f"(x1 compile {model.name}, {options.runs} runs)"
            )
            most = MOST.get(model.stem.removeprefix("q_"))
            good &= share <= MOST_CHECKED
            good &= most is None or (seconds <= most[0] and memory <= most[1])
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
