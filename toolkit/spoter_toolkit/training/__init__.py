"""Train a model: recipes, batches, augmentation, the loop, its record."""
