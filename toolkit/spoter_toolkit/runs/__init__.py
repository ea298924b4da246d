"""The RUN folder: weights, configuration, labels; and the notebook's checkpoints."""
