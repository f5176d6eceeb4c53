"""The DeepSpeed engine around the sampler: optimizer, precision, ZeRO, whole weights."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from jointsampler import JointSampler
from jointsampler.config import TrainConfig
from jointsampler.distill.trainer import Weights, learning_rate_factor
from jointsampler.errors import UserError

# Without a GPU: DeepSpeed does not search for one, and Muon's small matrix products are not
# compiled, which would take minutes.
CPU_ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}


class SamplerEngine:
    """An ``Engine`` of ``jointsampler.distill.trainer`` on DeepSpeed; on every worker."""

    def __init__(self, sampler: JointSampler, settings: TrainConfig, device: torch.device):
        self.module, self.device, self.settings = sampler, device, settings
        low = low_precision(settings, device)
        self.deepspeed = start_deepspeed(sampler, settings, device, low)

    def __call__(self, *args: Any) -> Tensor:
        return self.deepspeed(*args)

    def precision(self) -> AbstractContextManager[Any]:
        return precision(self.settings, self.device)

    def backward(self, loss: Tensor) -> None:
        self.deepspeed.backward(loss)

    def step(self) -> None:
        self.deepspeed.step()

    def weights(self) -> Weights:
        """A copy on the CPU, also where ZeRO-3 keeps a part of each weight on every worker."""
        if self.settings.zero_stage < 3:
            return self._copy()
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
            return self._copy()

    def _copy(self) -> Weights:
        return {name: v.detach().cpu().clone() for name, v in self.module.state_dict().items()}


def precision(settings: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 products on float32 weights, where the device is fast at them."""
    low = low_precision(settings, device)
    return torch.autocast(device.type, torch.bfloat16) if low else nullcontext()


def low_precision(settings: TrainConfig, device: torch.device) -> bool:
    wanted = settings.precision
    return wanted == "bfloat16" or (wanted == "auto" and bf16_is_fast(device))


def bf16_is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_compiler(settings: TrainConfig, device: torch.device) -> None:
    """Raise UserError where Muon's steps cannot be compiled; Triton looks for the same programs."""
    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if settings.optimizer == "muon" and device.type == "cuda" and not found:
        raise UserError(
            "train.optimizer=muon compiles its steps for the GPU, and this node has no C compiler: "
            "install gcc, name one in $CC, or set train.optimizer=adamw."
        )


def build_optimizer(sampler: JointSampler, settings: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; or Muon (DeepSpeed's, which supports ZeRO) for the matrices and Adam for the norms."""
    decay = settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            sampler.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=decay
        )
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in sampler.named_parameters():
        # Muon is for maps between hidden states; the estimator is a regression. DeepSpeed reads the mark.
        parameter.use_muon = parameter.ndim == 2 and not name.startswith("estimator.")
        groups[parameter.use_muon].append(parameter)
    return MuonWithAuxAdam(
        [
            {
                "params": groups[True],
                "use_muon": True,
                "lr": settings.muon_lr,
                "weight_decay": decay,
            },
            {"params": groups[False], "use_muon": False, "lr": settings.lr, "weight_decay": 0.0},
        ]
    )


def start_deepspeed(
    sampler: JointSampler, settings: TrainConfig, device: torch.device, low_precision: bool
) -> Any:
    check_compiler(settings, device)
    import deepspeed  # in the workers alone: the driver does not need it, and it takes seconds

    if device.type == "cpu":
        # DeepSpeed would compile a shared-memory collective for a minute; gloo works without it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    optimizer = build_optimizer(sampler, settings)
    engine, *_ = deepspeed.initialize(
        model=sampler,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, settings)
        ),
        config={
            # DeepSpeed only checks the product of its batch sizes; the trainer cuts the batches.
            "train_micro_batch_size_per_gpu": 1,
            # Under ZeRO, Muon's update replaces the gradient before DeepSpeed clips, so clipping
            # would shrink the step itself. Muon and Adam do not depend on the gradient's scale.
            "gradient_clipping": settings.clip if settings.optimizer == "adamw" else 0.0,
            "zero_optimization": {"stage": settings.zero_stage},
            "gradient_accumulation_steps": settings.accumulate,
            # On CUDA DeepSpeed disables an outer autocast that is not configured here.
            "torch_autocast": {
                "enabled": low_precision and device.type == "cuda",
                "dtype": "bfloat16",
            },
            "steps_per_print": 10**9,
        },
    )
    return engine
