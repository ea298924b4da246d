"""How well a recogniser finds the signs in streams, at known times."""
