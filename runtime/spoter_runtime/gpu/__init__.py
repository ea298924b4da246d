"""CUDA without torch: the devices, the installed packages, memory, streams and graphs."""
