"""Make a DATASET of videos: find the clips, find their landmarks on all cores or over Ray, write it."""
