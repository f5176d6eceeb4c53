"""Stage sweep: Ray Tune tries samplers and trainings on the one corpus and keeps what buys most.

``plan.py`` says which trials there are, ``launch.py`` runs them. A trial is a
training with other values of dotted config keys (sampler.width, train.k_max, ...).
"""
