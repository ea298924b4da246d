"""The bundle in a browser: the static site, its engine, and a real browser to prove it in."""
