"""The Ray layer and the entry points: thin adapters, config -> plan -> run."""
