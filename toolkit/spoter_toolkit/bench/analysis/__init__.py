"""Analyse the records of a run: ratios, drifts, claims, caveats."""
