"""The corpus: teacher trajectories, their files, and the check that every row is there exactly once."""
