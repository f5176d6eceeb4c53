"""Stage sweep: Ray Tune tries samplers and trainings on one corpus and ranks them.

``plan.py`` lists the trials, ``placement.py`` packs what they need (``need.py``) into what
the cluster has (``room.py``), and ``launch.py`` runs them. A trial is a training with other
values of dotted config keys (sampler.width, train.k_max, ...).
"""
