"""Measure a bundle on every backend: `controller.run_bench`, then `report.write_report`.

Imports nothing: the workers, whose memory and start-up time are measured, pass through this file.
"""
