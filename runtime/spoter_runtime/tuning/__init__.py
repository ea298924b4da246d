"""The fastest settings on this machine: the search for them and the file that keeps them."""
