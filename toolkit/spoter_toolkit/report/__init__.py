"""HTML pages: one template, tables and pictures."""
