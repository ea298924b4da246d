"""Search the fastest settings on this machine, and keep them in a file."""
