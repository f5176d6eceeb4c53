"""Measurement: how far samples and conditionals are from the true joint, and what they cost."""
