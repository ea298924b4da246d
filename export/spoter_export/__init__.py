"""Any nn.Module with the graph contract: to ONNX, to a bundle, and the proof that they agree."""
