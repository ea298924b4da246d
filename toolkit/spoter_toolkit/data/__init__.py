"""Datasets: the format, the splits, generated signing, and one importer per foreign format."""
