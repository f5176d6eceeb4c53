"""What the embedded teacher is made from: its text, its batches, its objective.

The training loop itself is ``workflows/pretrain.py``.
"""
