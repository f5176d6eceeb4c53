"""A record of the operations that PyTorch dispatches, to find out what a GPU would have to do."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Operations that read a result on the host, or copy a Python value to the device. On a GPU the
# host waits in each of them.
SYNCHRONISING = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique"),
    *("lift_fresh", "scalar_tensor", "tensor", "_assert_async"),
}
# Operations that compute nothing: views, and what only describes a tensor.
VIEWS = {
    *("view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "unsqueeze"),
    *("squeeze", "slice", "select", "split", "chunk", "detach", "alias", "as_strided", "unbind"),
    *("flatten", "view_as", "expand_as", "movedim", "numpy_T", "contiguous"),
}


class Operations(TorchDispatchMode):
    """The names of the operations dispatched in its context, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def synchronising(names: list[str]) -> list[str]:
        return [name for name in names if name in SYNCHRONISING]

    @staticmethod
    def computing(names: list[str]) -> int:
        """How many operations are no views: on a GPU about one kernel launch each."""
        return sum(name not in VIEWS for name in names)
