"""Write bundles, add engines to them, and describe their files."""
