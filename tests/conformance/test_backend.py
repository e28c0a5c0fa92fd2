"""ONNX's backend tests run to the outcomes that are listed; what is refused or far off is explained."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.backend import KINDS, backend_tests, outcome

OUTCOMES: Final = Path(__file__).with_name("backend.txt")
EXPLAINED: Final[Mapping[str, tuple[str, ...]]] = {
    "probabilities of 128 classes beside the fixed step of 1/256": (
        "pytorch-converted test_softmax_lastdim",
    ),
    "1e199, which no float32 holds": (
        "pytorch-operator test_operator_add_broadcast",
        "pytorch-operator test_operator_add_size1_right_broadcast",
        "pytorch-operator test_operator_add_size1_singleton_broadcast",
    ),
    "powers of negative numbers: NaN": ("pytorch-operator test_operator_pow",),
    "roots of negative numbers: NaN": ("pytorch-operator test_operator_sqrt",),
    "steep: the step of the input is what is left of it near 1": ("node test_acosh_example",),
    "masked values of 1e30 take the whole range": (
        "node test_attention_4d_softcap_neginf_mask_poison_expanded",
    ),
    "a NaN among the constants, which no code stands for": (
        "node test_mod_float_edge_cases_fmod_0_float16",
        "node test_mod_float_edge_cases_fmod_0_float32",
        "node test_mod_float_edge_cases_fmod_0_float64",
    ),
    "inputs of 0 to 3 beside 10,000: one step is 39": (
        "node test_logsoftmax_large_number",
        "node test_logsoftmax_large_number_expanded",
        "node test_logsoftmax_large_number_expanded_ver18",
        "node test_softmax_large_number",
        "node test_softmax_large_number_expanded",
        "node test_softmax_large_number_expanded_ver18",
    ),
    "exp(60) beside exp(5): one step is e^54": (
        "node test_reduce_log_sum_exp_do_not_keepdims_example_expanded",
        "node test_reduce_log_sum_exp_keepdims_example_expanded",
        "node test_reduce_log_sum_exp_negative_axes_keepdims_example_expanded",
    ),
    "exp(10) beside exp(0), where a step is e^4": (
        "node test_reduce_log_sum_exp_do_not_keepdims_random_expanded",
        "node test_reduce_log_sum_exp_keepdims_random_expanded",
        "node test_reduce_log_sum_exp_negative_axes_keepdims_random_expanded",
    ),
    "the least of 1 to 60, where a step is 0.24": ("node test_reduce_min_default_axes_keepdims_example",),
    "ONNX Runtime gives other values than the file: DISAGREED in suite.py": (
        "node test_resize_downsample_scales_cubic_align_corners",
        "node test_resize_downsample_scales_linear_align_corners",
    ),
    "halves, which the step of the input moves to either side": ("node test_round",),
    "steep: poles near the inputs": ("node test_tan",),
    "2.0 at the threshold of 2.0": (
        "node test_thresholdedrelu_example",
        "node test_thresholdedrelu_example_expanded_ver18",
    ),
    "drops values at random": (
        "node test_training_dropout",
        "node test_training_dropout_default",
    ),
}
"""Why tests are below 30 dB or barred."""
SAMPLE: Final = 4
"""By day one of so many."""


def listed() -> dict[str, str]:
    """The outcome of every test, by kind and name."""
    lines = OUTCOMES.read_text(encoding="utf-8").splitlines()
    return {name: said for name, _, said in (line.partition(": ") for line in lines)}


def outcomes(kinds: Iterable[str], step: int = 1) -> dict[str, str]:
    """What becomes of one of `step` tests of each kind."""
    found: dict[str, str] = {}
    for kind in kinds:
        for test in backend_tests(kind)[::step]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # NaN and infinity among the data
                result, why = outcome(test)
            found[f"{kind} {test.name}"] = result if result in ("runs", "below") else f"{result}, {why}"
    return found


def test_a_sample_of_the_backend_tests_has_the_listed_outcomes() -> None:
    found = outcomes(KINDS[:-1], SAMPLE)
    assert found
    assert found == {name: said for name, said in listed().items() if name in found}


@pytest.mark.nightly
def test_every_backend_test_has_the_listed_outcome(pytestconfig: pytest.Config) -> None:
    found = outcomes(KINDS)
    if pytestconfig.getoption("update_golden"):
        OUTCOMES.write_text("".join(f"{n}: {s}\n" for n, s in found.items()), encoding="utf-8")
    assert found == listed()


def test_what_is_refused_without_reason_or_far_off_is_explained() -> None:
    unexplained = {name for name, said in listed().items() if said == "below" or said.startswith("barred")}
    assert sorted(unexplained) == sorted(name for names in EXPLAINED.values() for name in names)
