"""ONNX to ONNX: each pass rewrites a graph without changing its answers."""
