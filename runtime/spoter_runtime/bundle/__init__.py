"""Read the bundle folder: manifest, files, engines' descriptions, goldens."""
