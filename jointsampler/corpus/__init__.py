"""The corpus: prompts, sampling, teacher trajectories, their files, and the check of a whole corpus."""
