"""From a camera, a video or a log to a stream's events, and on to those who listen."""
