"""Streams made of clips at known times, and how well a recogniser finds the signs in them."""
