"""Networks as PyTorch's two exporters write them: compiled, and equal to ONNX Runtime, the import too.

The files come from `python -m tests.torch_exports FOLDER`, which needs torch; X1_TORCH_EXPORTS names the folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from tests.models import assert_equal_to_onnx_runtime, save_samples, verified

FOLDER: Final = os.environ.get("X1_TORCH_EXPORTS")


@pytest.mark.nightly
@pytest.mark.skipif(FOLDER is None, reason="X1_TORCH_EXPORTS does not name a folder of exports")
def test_exports_of_both_exporters_equal_onnx_runtime(tmp_path: Path) -> None:
    files = sorted(Path(FOLDER or "").glob("*.onnx"))
    assert len(files) == 30, "fifteen networks, written twice"
    save_samples(
        tmp_path / "d.npz", {"x": np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)}
    )
    for path in files:
        body = verified(path, tmp_path, tmp_path / "d.npz", calibrate=True)
        assert_equal_to_onnx_runtime(body, comparable=len(body["tensors"]))
