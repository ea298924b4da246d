"""A result for people: tables, plots, Markdown and HTML."""
