"""Streams made of clips, at known times: to score a model on, and to travel in a bundle."""
