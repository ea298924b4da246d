"""The scenarios of a bench: latency, offline, server, start-up."""
