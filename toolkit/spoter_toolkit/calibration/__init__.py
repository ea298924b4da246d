"""When a model says "no sign": negative clips, figures on them, and thresholds fitted to them."""
