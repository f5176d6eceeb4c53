"""Trained samplers that ship with the package: data, no code."""
