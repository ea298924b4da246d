"""The bundle folder: what its files are, and how they are read."""
