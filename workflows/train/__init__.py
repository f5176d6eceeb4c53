"""Stage train: Ray Train workers distil the sampler inside a DeepSpeed engine.

``plan.py`` plans a training, ``launch.py`` starts the workers, each worker runs
``loop.py`` with the DeepSpeed parts in ``engine.py``, ``checkpoint.py`` and
``reshard.py``. ``memory.py`` checks that the kept states fit, and ``gpu_share.py`` keeps a
worker to its part of a GPU. The steps themselves are in ``jointsampler/distill``. Only the
sampler is in the engine; the frozen teacher stays outside, so that checkpoints hold the
sampler alone.
"""
