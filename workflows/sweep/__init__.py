"""Stage sweep: Ray Tune tries samplers and trainings on one corpus and ranks them.

``plan.py`` lists the trials, ``launch.py`` runs them. A trial is a
training with other values of dotted config keys (sampler.width, train.k_max, ...).
"""
