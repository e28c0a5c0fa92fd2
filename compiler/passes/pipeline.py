"""The pipelines: which pass, in which order, and why."""

from __future__ import annotations

from typing import Final

from compiler.passes.base import Pass
from compiler.passes.cancel_transposes import CancelTransposes
from compiler.passes.carry_quantize import CarryQuantize
from compiler.passes.copy_returned_inputs import CopyReturnedInputs
from compiler.passes.eliminate_dead import EliminateDead
from compiler.passes.eliminate_identity import EliminateIdentity
from compiler.passes.equalize import EqualizeLayers
from compiler.passes.fit_rank import FitRank
from compiler.passes.fold_batch_norm import FoldBatchNorm
from compiler.passes.fold_bias import FoldBias
from compiler.passes.fold_constants import FoldConstants
from compiler.passes.fold_pads import FoldPads
from compiler.passes.fuse_activation import FuseActivation
from compiler.passes.fuse_affine import FuseAffine
from compiler.passes.fuse_code_clamp import FuseCodeClamp
from compiler.passes.fuse_qdq import FuseQdq
from compiler.passes.infer_shapes import InferShapes
from compiler.passes.merge_images import MergeImages
from compiler.passes.permute_on_host import PermuteOnHost
from compiler.passes.quantize import QuantizeGraph
from compiler.passes.settle_batch_norm import SettleBatchNorm
from compiler.passes.split_windows import SplitWindows
from compiler.passes.to_device_layout import ToDeviceLayout
from compiler.quantize.scheme import Scheme

PREPARE: Final[tuple[Pass, ...]] = (
    InferShapes(),
    EliminateIdentity(),  # before folding: an identity hides the only user of a convolution
    FoldConstants(),
    SettleBatchNorm(),
    FoldBatchNorm(),  # before the bias: it multiplies what is added later
    FoldBias(),
    FuseActivation(),  # last: a clamp ends what can be folded into a convolution
    EliminateDead(),
)
PREPARE_PREQUANTIZED: Final[tuple[Pass, ...]] = (
    InferShapes(),
    EliminateIdentity(),
    FoldConstants(),
    SettleBatchNorm(),
    FuseAffine(),  # the batch normalization that `to_qdq` writes: its product has no scale
    CarryQuantize(),  # an operator that was imported as several keeps its scale
    FuseActivation(),  # a clamp between an operation and its Quantize becomes bounds
)
"""For prequantized graphs."""


def fuse_passes(scheme: Scheme) -> tuple[Pass, ...]:
    """For such graphs, prepared; the scheme is for results that they leave open."""
    return (FuseQdq(scheme), FuseCodeClamp(), FoldPads(), EliminateDead())


def quantize_passes(scheme: Scheme) -> tuple[Pass, ...]:
    """For float graphs, prepared."""
    return (QuantizeGraph(scheme), FoldPads())


TO_DEVICE: Final[tuple[Pass, ...]] = (
    FitRank(),  # before the layout: instructions know four dimensions
    ToDeviceLayout(),  # puts the transposes in
    SplitWindows(),
    CancelTransposes(),  # takes them out
    MergeImages(),  # when the layout is settled
    PermuteOnHost(),  # what is left at the edges costs nothing there
    EliminateIdentity(),
    CopyReturnedInputs(),  # when nothing moves values to the edges any more
    EliminateDead(),
)
_ALL: Final = (
    *PREPARE,
    EqualizeLayers(),
    *quantize_passes(Scheme()),
    *PREPARE_PREQUANTIZED,
    *fuse_passes(Scheme()),
    *TO_DEVICE,
)
PASS_NAMES: Final = tuple(dict.fromkeys(p.name for p in _ALL))
