"""Passes: each rewrites an ONNX graph without changing its answers."""
