"""Networks on several devices: the bytes of one, every tensor that of ONNX Runtime, refusals by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

import x1
from compiler import driver
from compiler.partition.assign import computed_values
from compiler.partition.search import SPLITS
from isa.checker import check_executable
from isa.container import load_executable, save
from isa.executable import Executable
from isa.support.diagnostics import UsageError
from runtime.session import ProgramSession
from tests.bench import executor
from tests.models import model, node
from tests.networks import quantized as quantized_graph
from tests.networks import random_graph, random_inputs
from x1.binary import Binary

Array = NDArray[Any]
TARGET: Final = "edge32"
RANDOM: Final = np.random.default_rng(7)


def drawn(*shape: int) -> Array:
    return (RANDOM.standard_normal(shape) * 0.4).astype(np.float32)


def residual(batch: int = 1) -> Any:
    """A stem, a depthwise block beside its input, a concatenation, pooling, a dense end."""
    return model(
        [
            node("Conv", "x w wb", "a", pads=[1, 1, 1, 1]),
            node("Relu", "a", "b"),
            node("Conv", "b v vb", "c", pads=[1, 1, 1, 1], group=16),
            node("Clip", "c low high", "d"),
            node("Conv", "d u ub", "e"),
            node("Add", "b e", "f"),
            node("MaxPool", "f", "g", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Concat", "g g", "h", axis=1),
            node("AveragePool", "h", "i", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", "i", "j"),
            node("Gemm", "j z zb", "l"),
            node("Softmax", "l", "y", axis=-1),
        ],
        {"x": (batch, 3, 20, 20)},
        "y",
        {
            "w": drawn(16, 3, 3, 3),
            "wb": drawn(16),
            "v": drawn(16, 1, 3, 3),
            "vb": drawn(16),
            "u": drawn(16, 16, 1, 1),
            "ub": drawn(16),
            "z": drawn(800, 12),
            "zb": drawn(12),
            "low": np.float32(0).reshape(()),
            "high": np.float32(6).reshape(()),
        },
    )


def quantized(batch: int = 1) -> x1.Model:
    return x1.quantize(residual(batch), "random:2")


def sample(batch: int = 1) -> dict[str, Array]:
    return {"x": np.random.default_rng(3).random((batch, 3, 20, 20)).astype(np.float32)}


def session(binary: Binary) -> ProgramSession:
    return ProgramSession(load_executable(binary.data).devices())


def all_of(binary: Binary, given: Mapping[str, Array], seed: int | None = None) -> dict[str, bytes]:
    """Every output and every tensor."""
    found = session(binary).execute(given, tensors=True, executor=executor(seed))
    assert not found.incomplete
    return {n: v.tobytes() for n, v in {**found.tensors, **found.outputs}.items()}


ALONE: Final = ("pipeline", "rows", "channels", "hybrid")
DAY: Final = (
    (2, "pipeline"),
    (2, "rows"),
    (2, "channels"),
    (3, "hybrid"),
    (4, "hybrid"),
    (7, "rows"),
    (8, "pipeline"),
)


@pytest.mark.parametrize(
    ("devices", "split"),
    [
        pytest.param(n, s, marks=() if (n, s) in DAY else pytest.mark.nightly)
        for n in (2, 3, 4, 7, 8)
        for s in ALONE
    ],
)
def test_several_devices_give_the_bytes_of_one_in_every_order(devices: int, split: str) -> None:
    network, given = quantized(), sample()
    expected = all_of(x1.compile(network, TARGET), given)
    made = x1.compile(network, TARGET, devices=devices, split=split)
    assert made.program.devices == devices
    for seed in (None, 1, 2):
        found = all_of(made, given, seed)
        assert found == expected
    executable = load_executable(made.data)
    assert save(executable) == made.data
    assert not check_executable(executable).violations


def test_images_of_a_batch_are_divided() -> None:
    network, given = quantized(5), sample(5)
    expected = all_of(x1.compile(network, TARGET), given)
    made = x1.compile(network, TARGET, devices=3, split="batch")
    assert all_of(made, given) == expected
    held = [row.box for p in load_executable(made.data).devices() for row in p.abi.inputs]
    assert [box and box[0] for box in held] == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("target", ["tiny8", "edge16"])
def test_small_machines_stage_what_they_send(target: str) -> None:
    network, given = quantized(), sample()
    expected = all_of(x1.compile(network, target), given)
    for split in ("rows", "channels"):
        assert all_of(x1.compile(network, target, devices=2, split=split), given) == expected


def test_every_tensor_is_that_of_onnx_runtime() -> None:
    pytest.importorskip("onnxruntime")
    network = quantized()
    made = x1.compile(network, TARGET, devices=4)
    assert x1.verify(network, made, sample()["x"]).succeeded


@pytest.mark.parametrize(
    ("seed", "devices", "split"),
    [(s, 2 + s % 4, ALONE[s % 4]) for s in range(8)]
    + [pytest.param(s, 2 + s % 7, ALONE[s % 4], marks=pytest.mark.nightly) for s in range(8, 108)],
)
def test_random_networks_give_the_bytes_of_one(seed: int, devices: int, split: str) -> None:
    graph = random_graph(seed)
    network = quantized_graph(graph, 2)
    (given,) = random_inputs(graph, 1, seed=seed)
    layers = len(computed_values(driver.lower(network.integers(), divided=True)))
    way = split if layers >= devices else "rows"
    made = x1.compile(network, TARGET, devices=devices, split=way)
    expected = all_of(x1.compile(network, TARGET), given)
    assert all_of(made, given) == expected


def test_streams_are_faster_on_more_devices_and_one_run_too() -> None:
    network = quantized()
    alone = x1.profile(x1.compile(network, TARGET))
    stream = x1.profile(x1.compile(network, TARGET, devices=3, throughput=True))
    assert stream.cycles_per_image < alone.cycles_per_image
    assert (alone.devices, stream.devices) == (1, 3)
    assert {layer.mode for layer in stream.per_layer} == {"device 0", "device 1", "device 2"}


def test_what_devices_share_stands_in_the_file_once() -> None:
    network = quantized()
    alone = x1.compile(network, TARGET)
    shared = x1.compile(network, TARGET, devices=4, split="rows")
    weights = sum(len(p.weights) for p in load_executable(shared.data).devices())
    assert weights > 2 * len(alone.program.weights)
    assert len(shared.data) < len(alone.data) + weights


@pytest.mark.parametrize("what", ["too many", "no split", "no batch", "few layers", "mesh"])
def test_divisions_that_cannot_be_are_refused(what: str, golden: Any) -> None:
    options: dict[str, Any] = {
        "too many": {"devices": 5, "overrides": ["net.devices=4"]},
        "no split": {"devices": 2, "split": "columns"},
        "no batch": {"devices": 2, "split": "batch"},
        "few layers": {"devices": 60, "split": "pipeline"},
        "mesh": {"devices": 3, "overrides": ['net.topology="mesh"', "net.cols=2"]},
    }[what]
    with pytest.raises(UsageError) as refused:
        x1.compile(quantized(), TARGET, **options)
    golden(
        f"errors/devices/division {what}.txt", "\n".join(d.render() for d in refused.value.diagnostics) + "\n"
    )


def test_a_machine_with_fewer_devices_than_a_binary_is_refused() -> None:
    made = x1.compile(quantized(), TARGET, devices=4, split="rows")
    small = x1.load_target("edge32", ["net.devices=2"]) if hasattr(x1, "load_target") else None
    if small is None:
        from isa.target import load_target

        small = load_target("edge32", ["net.devices=2"])
    with pytest.raises(UsageError, match=r"net\.devices"):
        ProgramSession(load_executable(made.data).devices(), target=small)


def test_one_device_needs_no_table() -> None:
    made = x1.compile(quantized(), TARGET)
    assert b".x1.devices" not in made.data
    assert Executable((made.program,)).device_count == 1
    assert set(SPLITS) > set(ALONE)
