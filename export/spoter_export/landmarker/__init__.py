"""From MediaPipe's networks to the landmarker's ONNX files, proven against the originals."""
