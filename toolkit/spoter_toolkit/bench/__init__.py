"""Measure a bundle on every backend: `run.run_bench`, then `report.folder.write_report`.

Imports nothing: the workers, whose memory and start-up time are measured, pass through this file.
"""
