"""Export any nn.Module with the graph contract to ONNX and to a bundle, and prove that they agree."""
