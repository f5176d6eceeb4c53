"""What the presets name on the hub: the true configurations and columns, and no weights.

Sizes and ids are those that the checkpoints publish. The vocabularies are a small
byte-level one, padded to the size of the true files, so that fetching one is seen.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.checkpoints import CHAT
from tests.support.hub import Hub
from tests.support.maker import byte_level, write_json

DREAM_BYTES, LLADA_BYTES, JUDGE_BYTES = 15_231_000_000, 16_031_000_000, 3_087_000_000
VOCABULARY_BYTES = 2_700_000
DATA_SET = "meta-math/MetaMathQA-40K"


def hub_of_presets(folder: Path) -> Hub:
    """A hub with the teachers, judges and data sets of all presets."""
    for name in ("Dream-v0-Instruct-7B", "Dream-v0-Base-7B"):
        write_dream(folder / name)
    write_llada(folder / "LLaDA-8B-Instruct")
    for name, layers in (("Qwen2.5-1.5B", 28), ("Qwen2.5-7B", 28)):
        write_judge(folder / name, layers)
    write_data_set(folder / "data")
    owners = {"Dream": "Dream-org", "LLaDA": "GSAI-ML", "Qwen2": "Qwen"}
    sizes = {"Dream": DREAM_BYTES, "LLaDA": LLADA_BYTES, "Qwen2": JUDGE_BYTES}
    repositories, listed = {}, {}
    for path in folder.iterdir():
        if path.name != "data":
            repositories[f"{owners[path.name[:5]]}/{path.name}"] = path
            file = "model-00001-of-00001.safetensors"
            listed[f"{owners[path.name[:5]]}/{path.name}"] = {file: sizes[path.name[:5]]}
    return Hub(repositories, True, {DATA_SET: folder / "data"}, listed)


def _special(content: str) -> dict:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, **flags, "special": True}


def _padded(path: Path, text: str) -> None:
    path.write_text(text.ljust(VOCABULARY_BYTES))


def write_dream(folder: Path) -> None:
    folder.mkdir(parents=True)
    tokens = {
        151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>",
        151665: "<|beginoftext|>", 151666: "<|mask|>",
    }  # fmt: skip
    write_json(
        folder / "config.json",
        {
            "architectures": ["DreamModel"], "attention_dropout": 0.0,
            "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
            "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584,
            "initializer_range": 0.02, "intermediate_size": 18944, "mask_token_id": 151666,
            "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "Dream",
            "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
            "pad_token_id": 151643, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0,
            "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "use_cache": True, "use_sliding_window": False, "vocab_size": 152064,
        },
    )  # fmt: skip
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "DreamTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
            "added_tokens_decoder": {str(i): _special(token) for i, token in tokens.items()},
            "bos_token": "<|beginoftext|>", "eos_token": "<|endoftext|>", "mask_token": "<|mask|>",
            "pad_token": "<|endoftext|>", "chat_template": CHAT,
        },
    )  # fmt: skip
    model = json.loads(byte_level([]).to_str())["model"]
    _padded(folder / "vocab.json", json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def write_llada(folder: Path) -> None:
    folder.mkdir(parents=True)
    tokens = {
        126080: "<|startoftext|>", 126081: "<|endoftext|>", 126336: "<|mdm_mask|>",
        126346: "<|start_header_id|>", 126347: "<|end_header_id|>", 126348: "<|eot_id|>",
    }  # fmt: skip
    write_json(
        folder / "config.json",
        {
            "activation_type": "silu", "alibi": False, "architectures": ["LLaDAModelLM"],
            "attention_layer_norm": False, "auto_map": {"AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
            "block_type": "llama", "d_model": 4096, "embedding_size": 126464, "eos_token_id": 126081,
            "include_bias": False, "include_qkv_bias": False, "input_emb_norm": False,
            "layer_norm_type": "rms", "mask_token_id": 126336, "max_sequence_length": 4096,
            "mlp_hidden_size": 12288, "mlp_ratio": 4, "model_type": "llada", "n_heads": 32,
            "n_kv_heads": 32, "n_layers": 32, "pad_token_id": 126081, "rms_norm_eps": 1e-05,
            "rope": True, "rope_theta": 500000.0, "scale_logits": False, "vocab_size": 126464,
            "weight_tying": False,
        },
    )  # fmt: skip
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {str(i): _special(token) for i, token in tokens.items()},
            "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>", "chat_template": CHAT,
        },
    )  # fmt: skip
    _padded(folder / "tokenizer.json", byte_level(list(tokens.values())).to_str())


def write_judge(folder: Path, layers: int) -> None:
    folder.mkdir(parents=True)
    write_json(
        folder / "config.json",
        {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536,
            "intermediate_size": 8960, "num_attention_heads": 12, "num_hidden_layers": layers,
            "num_key_value_heads": 2, "vocab_size": 151936,
        },
    )  # fmt: skip
    _padded(folder / "tokenizer.json", byte_level(["<|endoftext|>"]).to_str())


def write_data_set(folder: Path) -> None:
    """One JSON array with the columns query, response and type."""
    folder.mkdir(parents=True)
    rows = [
        {
            "query": f"If a train travels {i} miles in {i + 2} hours, what is its speed in miles per hour?",
            "response": f"It is {i} / {i + 2} = {i / (i + 2):.3f}. The answer is: {i / (i + 2):.3f}"
            * 3,
            "type": "GSM_Rephrased",
        }
        for i in range(2000)
    ]
    (folder / "MetaMathQA-40K.json").write_text(json.dumps(rows, indent=2))
    (folder / "README.md").write_text("# MetaMathQA-40K\n")
