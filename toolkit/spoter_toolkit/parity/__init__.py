"""The proof of a whole bundle: run it, localise a failure, show both."""
