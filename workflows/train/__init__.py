"""Stage train: Ray Train workers distil the sampler inside a DeepSpeed engine.

``plan.py`` says what would be trained, ``launch.py`` starts the workers, ``loop.py``
is what each worker runs, ``engine.py`` and ``checkpoint.py`` are its DeepSpeed parts,
``memory.py`` checks that the kept states fit. What a training computes is
``jointsampler/distill``. Only the sampler is in the engine; the frozen teacher
stays outside, so that checkpoints hold the sampler alone.
"""
