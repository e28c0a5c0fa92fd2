"""Random networks, every tensor of the shipped binary equal to ONNX Runtime's, on two machines."""

from __future__ import annotations

import pytest

from isa.container import save
from tests.networks import compiled_and_verified, random_graph, random_inputs
from x1.session import Session


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("target", ["tiny8", "edge32"])
def test_every_tensor_equals_onnx_runtimes(seed: int, target: str) -> None:
    _, result = compiled_and_verified(random_graph(seed), target)
    assert result.mismatches == 0, result.first_divergence


@pytest.mark.nightly
@pytest.mark.parametrize("block", range(20))
def test_every_tensor_of_many_graphs_equals_onnx_runtimes(block: int) -> None:
    for seed in range(1000 + 50 * block, 1050 + 50 * block):
        for target in ("tiny8", "edge16"):
            _, result = compiled_and_verified(random_graph(seed), target, samples=1)
            assert result.mismatches == 0, (seed, target, result.first_divergence)


@pytest.mark.parametrize("seed", range(8))
def test_no_run_reads_what_nothing_has_written(seed: int) -> None:
    binary, _ = compiled_and_verified(random_graph(seed), "tiny8")
    graph = random_graph(seed)
    (inputs,) = random_inputs(graph, 1)
    plain = Session(save(binary.program)).execute(inputs).outputs["y"]
    poisoned = Session(save(binary.program), poison=True).execute(inputs).outputs["y"]
    assert plain.tobytes() == poisoned.tobytes()
