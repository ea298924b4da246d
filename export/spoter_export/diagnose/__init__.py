"""Find the step, and the tensor, at which two runners begin to differ."""
