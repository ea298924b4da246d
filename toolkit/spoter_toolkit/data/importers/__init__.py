"""One module for each foreign format that becomes a DATASET."""
