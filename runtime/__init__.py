"""Executes X1 binaries.

`state` is what a core holds, on the memories of `memory`; `executors` change it: the reference one after the
other, the interleaved one in any order that tokens allow. `session` feeds them as ONNX Runtime is fed, `host`
doing the host's part; `capture` takes what layers give; `trace` writes profiles for other tools.
"""
