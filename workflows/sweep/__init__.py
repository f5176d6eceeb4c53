"""Stage sweep: Ray Tune tries samplers and trainings on one corpus and ranks them.

``plan.py`` lists the trials, ``placement.py`` packs them into what ``room.py`` finds,
``launch.py`` runs them. A trial is a training with other values of dotted config keys
(sampler.width, train.k_max, ...).
"""
