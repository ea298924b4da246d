"""The `spoter-kit` command: one file a verb; each parses, calls one library function, and shows."""
