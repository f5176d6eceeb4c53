"""The one configuration schema: typed, validated, unknown keys refused.

A configuration is a YAML file (presets in ``workflows/configs/``) plus
``section.field=value`` overrides. Reading it starts nothing and imports no
torch; whether a name (a method, an order, a judge) exists is checked by the
plan of the stage that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import UserError, unknown_name

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RunConfig(Section):
    """What concerns every stage."""

    seed: int = 0
    threads: int = Field(0, ge=0, description="torch threads of pretrain; 0 leaves torch's own")
    storage: str | None = Field(
        None, description="of corpus and checkpoints: a folder or s3://, gs:// URI; default: OUT"
    )
    experiment: str = "jointsampler"
    mlflow_uri: str | None = Field(
        None, description="default: $MLFLOW_TRACKING_URI, else OUT/mlflow.db"
    )


class TeacherConfig(Section):
    name: str = Field("tiny", description="an embedded teacher, a checkpoint folder or a hub id")
    family: str | None = Field(None, description="default: told from its config.json")
    revision: str | None = Field(None, description="of the hub repository")
    tokenizer: str | None = Field(None, description="where the checkpoint has none of its own")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, bfloat16 on a GPU"
    )
    attention: Literal["sdpa", "eager"] = "sdpa"
    quantization: Literal["none", "int8", "int4"] = "none"

    def identity(self) -> dict[str, Any]:
        """What a teacher computes depends on; the rest is where."""
        return self.model_dump(
            include={"name", "family", "revision", "tokenizer", "dtype", "quantization"}
        )


class SamplerConfig(Section):
    width: PositiveInt | None = Field(None, description="default: the teacher's hidden size")
    layers: PositiveInt = 1
    features: int = Field(
        0, ge=0, description="intermediate teacher layers that it reads, evenly spaced"
    )
    neighbors: int = Field(
        0, ge=0, description="positions on each side whose embeddings each position reads"
    )
    window: int = Field(
        0, ge=0, description="candidate positions that a block is confined to; 0: all positions"
    )
    rank: int = Field(
        0,
        ge=0,
        description="directions in which hidden states move; the LM head is then run only as a block "
        "opens, and corrected after; needs a window; 0: all",
    )


class CorpusConfig(Section):
    """workflows/corpus.py: sequential samples of the teacher."""

    rows: PositiveInt = Field(1024, description="training trajectories")
    held_out: PositiveInt = Field(128, description="further trajectories, never trained on")
    prompts: str | None = Field(
        None, description=".jsonl, .parquet or .txt file, hub data set, or tasks"
    )
    prompted: Share = Field(
        1.0, description="share of the rows with a prompt, if there are prompts"
    )
    chat: bool = Field(False, description="prompts are a user's turn in the chat template")
    max_new_tokens: PositiveInt = 32
    temperature: float = 1.0
    top_p: float = 1.0
    order: str = "entropy"
    on_policy: Share = Field(
        0,
        description="share of the training rows unrolled by corpus.sampler, its tokens and its order",
    )
    sampler: str | None = Field(None, description="folder of the sampler that on_policy rows need")
    anchors: int = Field(
        0,
        ge=0,
        description="states per row kept with their targets: no teacher pass per training step",
    )
    depths: int = Field(
        0, ge=0, description="states after an anchor whose targets are kept; 0: train.k_max - 1"
    )
    top: PositiveInt = Field(
        64, description="log-probabilities kept per target, and the rest's mass"
    )
    rows_per_file: PositiveInt = Field(64, description="one batch, one file, one unit of work")
    actors: int = Field(0, ge=0, description="teachers at work; 0 takes every GPU, or every CPU")


class TrainConfig(Section):
    """workflows/train.py: distillation of the sampler."""

    steps: int = Field(400, ge=0, description="0 takes train.warm_start as it is")
    rows: int = Field(0, ge=0, description="of the corpus, from first_row on; 0: all training rows")
    first_row: int = Field(
        0,
        ge=0,
        description="rows before it are left out: a later round takes rows that no round saw",
    )
    seed: int = Field(
        0, description="of weights and draws, beside run.seed, which the corpus shares"
    )
    batch_size: PositiveInt = Field(32, description="trajectories per step, over all workers")
    accumulate: PositiveInt = Field(1, description="parts that a worker's share of it is cut into")
    objective: Literal["forward_kl", "reverse_kl", "mixed_kl", "hard_labels"] = "forward_kl"
    hidden_weight: float = Field(
        0, ge=0, description="of the hidden states' relative squared error, beside the objective"
    )
    warm_start: str | None = Field(None, description="folder of a sampler of the same shape")
    optimizer: Literal["muon", "adamw"] = Field("muon", description="muon: AdamW for the norms")
    lr: float = Field(2e-3, gt=0, description="of AdamW")
    muon_lr: float = Field(0.015, gt=0)
    warmup_steps: int = Field(20, ge=0)
    cooldown: Share = Field(0.5, description="share of the steps over which lr falls to 0")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest gradient norm; adamw only")
    k_max: int = Field(8, ge=2)
    depth_decay: float = Field(0.5, gt=0, le=1, description="softmax(decay ** depth) weighs depths")
    deeper: float = Field(
        1.0, gt=0, le=1, description="chance of unrolling one depth more; 1: always to k_max"
    )
    certain: float = Field(
        1.0,
        gt=0,
        le=1,
        description="weight of starts whose first token was certain, against 1 of surprising ones; "
        "below 1 it needs cache_gib",
    )
    near: PositiveInt = Field(2, description="positions revealed next that enter the loss")
    far: int = Field(4, ge=0, description="random other masked positions that do")
    near_share: Share = Field(0.9, description="the near positions' share of the loss")
    fresh: Share = Field(
        0,
        description="share of the states that the teacher continues with new tokens of its own, not the "
        "recorded: more from a small corpus, at no cost where states are not kept",
    )
    cache_gib: float = Field(0, ge=0, description="teacher states kept in memory, per worker")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 1
    workers: int = Field(0, ge=0, description="0 takes every GPU, or every CPU")
    min_workers: int = Field(
        0, ge=0, description="go on with as few while nodes are away; 0: always with train.workers"
    )
    report_every: PositiveInt = 10
    validate_every: PositiveInt = 100
    validate_k: list[Annotated[int, Field(ge=2)]] = Field(
        [4], description="captured dependency there, on average, picks the checkpoint that is kept"
    )
    validate_rows: PositiveInt = 32
    patience: int = Field(
        0, ge=0, description="validations without a better one before it stops; 0: never"
    )
    ema: float = Field(0, ge=0, lt=1, description="decay of averaged weights; 0: none")
    save_every: PositiveInt = 100
    max_failures: int = Field(2, ge=0)


class Range(Section):
    """Values between two bounds, for a random or optuna search."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low={self.low} must be less than high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, not {self.low}")
        return self


class SweepConfig(Section):
    """workflows/sweep.py: which sampler and which training buy most; the best is trained to the end."""

    space: dict[str, list[Any] | Range] = Field(
        {},
        description="config key of sampler or train -> its values, or low, high, log",
    )
    variants: dict[Annotated[str, Field(pattern=r"^[\w\-. :/]+$")], dict[str, Any]] = Field(
        {},
        description="name -> config keys of sampler or train and their values, tried at every point of "
        "the space: an ablation; no space and no variants: no sweep",
    )
    search: Literal["grid", "random", "optuna"] = "grid"
    trials: PositiveInt = Field(8, description="of a random or optuna search; a grid tries all")
    steps: PositiveInt = Field(400, description="of training per trial")
    scheduler: Literal["none", "asha"] = "none"
    grace: PositiveInt = Field(100, description="steps before asha may stop a trial")
    workers: int = Field(1, ge=0, description="training workers per trial; 0: all")
    at_once: int = Field(0, ge=0, description="trials at a time; 0: as many as fit")
    objective: Literal["nats_at_speed", "speed_at_nats"] = "nats_at_speed"
    speed: float = Field(2.0, ge=1, description="tokens per unit of cost, for nats_at_speed")
    nats: float = Field(0.2, gt=0, description="per token, for speed_at_nats")

    @property
    def wanted(self) -> bool:
        return bool(self.space or self.variants)


class EvaluateConfig(Section):
    """workflows/evaluate.py: samples and block KL for every method and k."""

    methods: list[str] = ["marginal", "joint"]
    ks: list[PositiveInt] = [1, 2, 4, 8]
    samples: PositiveInt = Field(160, description="per method, k and generation seed")
    generation_seeds: PositiveInt = 2
    kmeans_seeds: Annotated[int, Field(ge=2)] = 5
    samples_per_item: PositiveInt = 80
    judge: str = Field("smollm2", description="smollm2, none, or any causal LM by hub id or folder")
    shown: PositiveInt = Field(4, description="sample texts side by side in the report")
    actors: int = Field(0, ge=0, description="0 takes every GPU, or every CPU")


class EstimateConfig(Section):
    """pipeline.py --plan and workflows/estimate.py: the machine that a forecast is for."""

    gpus: int = Field(0, ge=0, description="0: those of this machine")
    gpu_flops: float = Field(
        3e14,
        gt=0,
        description="sustained FLOP/s of one GPU in bfloat16; an assumption, measure yours",
    )
    core_flops: float = Field(5e10, gt=0, description="sustained FLOP/s of one CPU core")
    storage_bytes_per_second: float = Field(
        2e9, gt=0, description="of the shared storage that all GPUs load the weights from"
    )


class PretrainConfig(Section):
    """workflows/pretrain.py: the embedded teacher."""

    vocab_size: PositiveInt = 2048
    hidden_size: PositiveInt = 192
    intermediate_size: PositiveInt = 512
    layers: PositiveInt = 10
    heads: PositiveInt = 6
    context: PositiveInt = 256
    lengths: list[PositiveInt] = [64, 33, 128, 64, 96, 33]
    task_lengths: list[PositiveInt] = [20, 48, 28, 20, 42, 64]
    batch_tokens: PositiveInt = 6144
    task_share: Share = 0.5
    steps: PositiveInt = 4000
    warmup_steps: PositiveInt = 100
    cooldown: Share = 0.3
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    bf16: bool = True
    compile: bool = True
    device: Literal["auto", "cpu"] = "auto"
    log_every: PositiveInt = 50
    save_every: PositiveInt = 250
    seed: int = 0


class Config(Section):
    run: RunConfig = RunConfig()
    teacher: TeacherConfig = TeacherConfig()
    sampler: SamplerConfig = SamplerConfig()
    corpus: CorpusConfig = CorpusConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    estimate: EstimateConfig = EstimateConfig()
    pretrain: PretrainConfig = PretrainConfig()


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema."""
    keys = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += known_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise UserError(f"Override {override!r} has no '=': write it as section.field=value.")
    try:
        _set(tree, key.strip(), yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise UserError(f"Override {override!r}: the value is not valid YAML ({error}).") from None


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise unknown_name("config key", key, known_keys())
    node[leaf] = value


def _validated(tree: dict[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown_name("config key", key, known_keys()) from None
        raise UserError(
            f"Config key {key} in {where}: {first['msg']} (got {first['input']!r})."
        ) from None


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """``config`` with dotted keys set to other values; UserError as in :func:`load_config`."""
    tree = config.model_dump()
    for key, value in values.items():
        _set(tree, key, value)
    return _validated(tree, "a changed configuration")


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The validated configuration of a YAML file with overrides applied.

    Raises UserError with the key and the reason: unreadable file, unknown key
    (with the nearest valid one), wrong type, value out of range.
    """
    tree: dict[str, Any] = {}
    where = "the defaults"
    if path is not None:
        where = str(path)
        try:
            tree = yaml.safe_load(Path(path).read_text()) or {}
        except OSError as error:
            raise UserError(f"Cannot read config {path}: {error.strerror}.") from None
        except yaml.YAMLError as error:
            raise UserError(f"Config {path} is not valid YAML: {error}.") from None
        if not isinstance(tree, dict):
            raise UserError(
                f"Config {path} must be a mapping of sections, not {type(tree).__name__}."
            )
    for override in overrides:
        _apply_override(tree, override)
    return _validated(tree, f"{where} or the overrides")
