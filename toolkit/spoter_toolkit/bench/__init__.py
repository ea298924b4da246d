"""Measure a bundle on every backend: `run.run_bench`, then `report.folder.write_report`.

Must import nothing: the workers, whose memory and start-up time are measured, import this file.
"""
