"""Tiny random MDLM and BERT checkpoints in their published layout; see ``checkpoints.py``."""

from __future__ import annotations

from pathlib import Path

from tests.support.maker import (
    HEAD,
    HEADS,
    LAYERS,
    MLP,
    WIDTH,
    Maker,
    Weights,
    byte_level,
    write_json,
)

CONDITIONING = 16


def write_mdlm(folder: Path) -> Weights:
    """kuleshov-group/mdlm-owt, and beside it the GPT-2 tokenizer that it does not bring."""
    make = Maker(folder, seed=4)
    tokenizer = byte_level(["<|endoftext|>"])
    vocab = tokenizer.get_vocab_size() + 1
    write_json(
        folder / "config.json",
        {
            "architectures": ["MDLM"],
            "auto_map": {"AutoModelForMaskedLM": "modeling_mdlm.MDLM"},
            "cond_dim": CONDITIONING,
            "dropout": 0.1,
            "hidden_dim": WIDTH,
            "model_length": 128,
            "model_type": "mdlm",
            "n_blocks": LAYERS,
            "n_heads": HEADS,
            "return_dict": False,
            "time_conditioning": False,
            "vocab_size": vocab,
        },
    )
    make.matrix("backbone.vocab_embed.embedding", vocab, WIDTH)
    make.matrix("backbone.sigma_map.mlp.0.weight", CONDITIONING, 256)
    make.matrix("backbone.sigma_map.mlp.0.bias", CONDITIONING)
    make.matrix("backbone.sigma_map.mlp.2.weight", CONDITIONING, CONDITIONING)
    make.matrix("backbone.sigma_map.mlp.2.bias", CONDITIONING)
    make.matrix("backbone.rotary_emb.inv_freq", HEAD // 2)
    for i in range(LAYERS):
        at = f"backbone.blocks.{i}."
        make.norm(f"{at}norm1.weight", WIDTH)
        make.matrix(f"{at}attn_qkv.weight", 3 * WIDTH, WIDTH)
        make.matrix(f"{at}attn_out.weight", WIDTH, WIDTH)
        make.norm(f"{at}norm2.weight", WIDTH)
        make.matrix(f"{at}mlp.0.weight", 4 * WIDTH, WIDTH)
        make.matrix(f"{at}mlp.0.bias", 4 * WIDTH)
        make.matrix(f"{at}mlp.2.weight", WIDTH, 4 * WIDTH)
        make.matrix(f"{at}mlp.2.bias", WIDTH)
        make.matrix(f"{at}adaLN_modulation.weight", 6 * WIDTH, CONDITIONING)
        make.matrix(f"{at}adaLN_modulation.bias", 6 * WIDTH)
    make.norm("backbone.output_layer.norm_final.weight", WIDTH)
    make.matrix("backbone.output_layer.linear.weight", vocab, WIDTH)
    make.matrix("backbone.output_layer.linear.bias", vocab)
    make.matrix("backbone.output_layer.adaLN_modulation.weight", 2 * WIDTH, CONDITIONING)
    make.matrix("backbone.output_layer.adaLN_modulation.bias", 2 * WIDTH)
    gpt2 = folder.with_name(folder.name + "-gpt2")
    gpt2.mkdir(exist_ok=True)
    tokenizer.save(str(gpt2 / "tokenizer.json"))
    write_json(gpt2 / "tokenizer_config.json", {"model_max_length": 1024})  # all that it says
    write_json(gpt2 / "config.json", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    return make.write()


BERT_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["the", "quick", "brown", "fox", "def", "main", "x"],
    "a",
]


def write_bert(folder: Path, vocab: int = 40) -> Weights:
    """bert-base-uncased as published: vocab.txt, and heads that a masked LM does not use."""
    make = Maker(folder, seed=5)
    words = BERT_WORDS + [f"##w{i}" for i in range(vocab - len(BERT_WORDS))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 512})
    write_json(
        folder / "config.json",
        {
            "architectures": ["BertForMaskedLM"],
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": WIDTH,
            "intermediate_size": MLP,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 64,
            "model_type": "bert",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "pad_token_id": 0,
            "type_vocab_size": 2,
            "vocab_size": vocab,
        },
    )
    emb = "bert.embeddings."
    make.matrix(f"{emb}word_embeddings.weight", vocab, WIDTH)
    make.matrix(f"{emb}position_embeddings.weight", 64, WIDTH)
    make.matrix(f"{emb}token_type_embeddings.weight", 2, WIDTH)

    def layer_norm(name: str) -> None:
        make.norm(f"{name}.weight", WIDTH)
        make.matrix(f"{name}.bias", WIDTH)

    def linear(name: str, out: int, into: int) -> None:
        make.matrix(f"{name}.weight", out, into)
        make.matrix(f"{name}.bias", out)

    layer_norm(f"{emb}LayerNorm")
    for i in range(LAYERS):
        at = f"bert.encoder.layer.{i}."
        for name in ("query", "key", "value"):
            linear(f"{at}attention.self.{name}", WIDTH, WIDTH)
        linear(f"{at}attention.output.dense", WIDTH, WIDTH)
        layer_norm(f"{at}attention.output.LayerNorm")
        linear(f"{at}intermediate.dense", MLP, WIDTH)
        linear(f"{at}output.dense", WIDTH, MLP)
        layer_norm(f"{at}output.LayerNorm")
    linear("bert.pooler.dense", WIDTH, WIDTH)
    make.matrix("cls.predictions.bias", vocab)
    linear("cls.predictions.transform.dense", WIDTH, WIDTH)
    layer_norm("cls.predictions.transform.LayerNorm")
    linear("cls.seq_relationship", 2, WIDTH)
    return make.write()
