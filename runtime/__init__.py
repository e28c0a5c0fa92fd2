"""Executes X1 binaries, and says when.

`machine` is the reference interpreter, on the memories of `memory`; `interleave` runs its engines in any
order that their tokens allow; `session` feeds it as ONNX Runtime is fed, `host` doing the host's part;
`capture` takes what layers give. `timing` is the cycle model; `profile` and `trace` say what it found.
"""
