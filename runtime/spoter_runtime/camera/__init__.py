"""Frames of a camera or a video to the 54 landmarks."""
