"""Whatever the schedule, the bits are the same: -O0 beside -O3, and engines in other interleavings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from isa.support.diagnostics import X1Error
from isa.support.records import replace
from tests.bench import executor
from tests.differential.test_large_networks import NETS, random_network
from tests.differential.test_quantized_models import LARGE, SMALL
from tests.differential.test_trained_networks import FURTHER, NETWORKS, network
from tests.networks import quantized, random_graph
from tests.random_onnx import random_network as random_onnx
from x1 import api
from x1.session import Session

TARGETS = ["edge32", "edge16", "tiny8"]
Inputs = dict[str, np.ndarray]


def noise(model: api.Model, seed: int = 7) -> Inputs:
    """Values for the inputs of a network."""
    generator = np.random.default_rng(seed)
    return {n: generator.standard_normal(s).astype(np.float32) for n, s in model.input_shapes.items()}


def on_noise(model: api.Model) -> api.Model:
    return api.quantize(model, [noise(model, seed) for seed in range(2)])


def every_tensor(session: Session, sample: Inputs) -> dict[str, bytes]:
    """The bytes of all outputs and of every tensor between."""
    done = session.execute(sample, tensors=True)
    assert not done.incomplete
    return {name: value.tobytes() for name, value in (done.outputs | done.tensors).items()}


def require_same_bits(model: api.Model, sample: Inputs, target: str) -> None:
    """Compile on both levels, and compare every tensor."""
    plain, best = (
        every_tensor(Session(api.compile(model, target, opt_level=level, search=1)), sample)
        for level in (0, 3)
    )
    assert plain.keys() == best.keys()
    assert [name for name, value in plain.items() if best[name] != value] == []


def require_same_interleaved(model: api.Model, sample: Inputs, target: str, runs: int) -> None:
    """Run in program order and in some interleavings of the engines, and compare the outputs."""
    session = Session(api.compile(model, target, search=1))
    outputs = {
        b"".join(y.tobytes() for y in session.execute(sample, executor=executor(seed)).outputs.values())
        for seed in (None, *range(runs))
    }
    assert len(outputs) == 1


def random_models(seeds: range) -> Iterator[api.Model]:
    """Random graphs, quantized."""
    for seed in seeds:
        yield quantized(random_graph(seed), 2)


def random_networks(seeds: range, folder: Path) -> Iterator[api.Model]:
    """Random ONNX networks, quantized; those that are refused left out."""
    place = folder / "random.onnx"
    for seed in seeds:
        place.write_bytes(random_onnx(seed)[0].SerializeToString())
        try:
            yield on_noise(api.load_network(place))
        except X1Error:
            continue


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_digit_networks_have_the_same_bits_at_every_level(assets: Path, name: str, target: str) -> None:
    model, _ = network(assets, name)
    require_same_bits(model, noise(model), target)


def test_another_bit_at_one_level_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the last bit of every weight, in the best schedule."""
    (model,) = random_models(range(3, 4))
    compiled = api.compile

    def wrong(model: api.Model, target: str, *, opt_level: int, search: int) -> api.Binary:
        binary = compiled(model, target, opt_level=opt_level, search=search)
        weights = bytes(w ^ bool(opt_level) for w in binary.program.weights)
        return replace(binary, program=replace(binary.program, weights=weights))

    require_same_bits(model, noise(model), "edge32")
    monkeypatch.setattr(api, "compile", wrong)
    with pytest.raises(AssertionError):
        require_same_bits(model, noise(model), "edge32")


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FURTHER)
def test_networks_of_others_have_the_same_bits_at_every_level(assets: Path, name: str, target: str) -> None:
    model = on_noise(api.load_network(assets / "models" / name, FURTHER[name]))
    require_same_bits(model, noise(model), target)


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_networks_quantized_elsewhere_have_the_same_bits_at_every_level(
    assets: Path, name: str, target: str
) -> None:
    model = api.load_network(assets / "models" / "quantized" / f"{name}.onnx")
    require_same_bits(model, noise(model), target)


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_large_networks_have_the_same_bits_at_every_level(
    assets: Path, tmp_path: Path, name: str, target: str
) -> None:
    model = on_noise(random_network(assets, tmp_path, name))
    require_same_bits(model, noise(model), target)


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("block", range(20))
def test_random_graphs_have_the_same_bits_at_every_level(block: int, target: str) -> None:
    for model in random_models(range(1000 + 50 * block, 1050 + 50 * block)):
        require_same_bits(model, noise(model), target)


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("block", range(20))
def test_random_networks_have_the_same_bits_at_every_level(block: int, target: str, tmp_path: Path) -> None:
    for model in random_networks(range(50 * block, 50 * block + 50), tmp_path):
        require_same_bits(model, noise(model), target)


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_fifty_interleavings_of_digit_networks_have_the_same_bits(
    assets: Path, name: str, target: str
) -> None:
    model, _ = network(assets, name)
    require_same_interleaved(model, noise(model), target, 50)


@pytest.mark.nightly
@pytest.mark.parametrize("block", range(20))
def test_fifty_interleavings_of_two_hundred_graphs_have_the_same_bits(block: int) -> None:
    for index, model in enumerate(random_models(range(2000 + 10 * block, 2010 + 10 * block))):
        require_same_interleaved(model, noise(model), TARGETS[index % 3], 50)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NETS)
def test_five_interleavings_of_large_networks_have_the_same_bits(
    assets: Path, tmp_path: Path, name: str
) -> None:
    model = on_noise(random_network(assets, tmp_path, name))
    require_same_interleaved(model, noise(model), "edge32", 5)
