"""From samples to findings: ratios, drift, verdicts, caveats."""
