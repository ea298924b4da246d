"""Read ONNX files without the onnx package: metadata, float nodes, and what may not be in them."""
