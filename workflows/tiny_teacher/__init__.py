"""The recipe of the embedded teacher "tiny": its text, tokenizer, batches, objective and training.

The library and the workflow stages do not need it; they load the finished teacher.
"""
