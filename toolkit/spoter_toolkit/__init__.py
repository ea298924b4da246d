"""Data, models, training, measuring, and the `spoter-kit` command. Imports nothing until it is used."""
