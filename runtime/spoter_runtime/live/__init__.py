"""Landmarks in time to signs: a stream of frames becomes events, and silence stays silent."""
