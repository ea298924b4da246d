"""Serve bundles to many clients: the Open Inference Protocol v2 over HTTP."""
