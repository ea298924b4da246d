"""ONNX Runtime: the package that is installed, its settings, sessions on CPU and GPU."""
