"""TensorRT and TensorRT for RTX: checks before an engine is loaded, and running it."""
