"""Owns cross-validation: every signer is tested on once, by a model that never saw them."""
