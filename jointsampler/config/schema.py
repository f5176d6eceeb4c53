"""The configuration schema: every section and key, its type, its default and its meaning.

Unknown keys are refused. How a YAML file and overrides become a ``Config`` is in
``load.py``. The plan of the stage that uses a name (a method, an order, a judge)
checks that the name exists.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RunConfig(Section):
    """Settings that every stage shares."""

    seed: int = 0
    storage: str | None = Field(
        None,
        description="where corpus and checkpoints go: a folder or an s3:// or gs:// URI; default: OUT",
    )
    experiment: str = "jointsampler"
    mlflow_uri: str | None = Field(
        None, description="default: $MLFLOW_TRACKING_URI, else OUT/mlflow.db"
    )
    heartbeat_s: float = Field(
        60.0,
        ge=0,
        description="seconds between the lines that say what each actor of the corpus and the "
        "evaluation is doing; 0: none",
    )


class TeacherConfig(Section):
    name: str = Field("tiny", description="an embedded teacher, a checkpoint folder or a hub id")
    family: str | None = Field(None, description="default: detected from config.json")
    revision: str | None = Field(None, description="of the hub repository")
    tokenizer: str | None = Field(
        None, description="folder or hub id, for a checkpoint that has no tokenizer"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, bfloat16 on a GPU"
    )
    quantization: Literal["none", "int8", "int4"] = "none"

    def identity(self) -> dict[str, Any]:
        """The fields that change the teacher's outputs; ``device`` does not."""
        return self.model_dump(
            include={"name", "family", "revision", "tokenizer", "dtype", "quantization"}
        )


class SamplerConfig(Section):
    """The trained sampler: one layer, alone or on the teacher's lower layers."""

    width: PositiveInt | None = Field(None, description="default: the teacher's hidden size")
    mlp: PositiveInt | None = Field(
        None, description="inner width of its MLP; default: the teacher's, scaled with width"
    )
    depth: int = Field(
        0,
        ge=0,
        description="the teacher's lower layers that every update reruns at a few columns below the "
        "trained one (a hybrid); 0: the paper's form, which reads the embeddings of the canvas",
    )


class ColumnsConfig(Section):
    """Which columns of the canvas an update recomputes: a refresh, or a sampler of depth 1 or more."""

    count: PositiveInt = 8
    policy: str = Field("attention", description="a name of jointsampler/columns")


class CorpusConfig(Section):
    """Stage corpus: sequential samples of the teacher."""

    rows: PositiveInt = Field(1024, description="training trajectories")
    held_out: PositiveInt = Field(128, description="further trajectories, never trained on")
    prompts: str | None = Field(
        None,
        description=".jsonl, .parquet or .txt file, hub data set, or tasks",
    )
    prompt_template: str = Field(
        "{prompt}", description="the prompt of a row, with its columns in braces"
    )
    revision: str | None = Field(None, description="of the hub data set: a commit pins it")
    prompted: Share = Field(
        1.0, description="share of the rows with a prompt, if there are prompts"
    )
    chat: bool = Field(False, description="prompts are a user's turn in the chat template")
    max_new_tokens: PositiveInt = 32
    temperature: float = 1.0
    top_p: float = 1.0
    order: str = "entropy"
    rows_per_file: PositiveInt = Field(
        64, description="rows of one shard, which one actor samples in one batch if memory allows"
    )
    actors: int = Field(0, ge=0, description="teachers at work; 0 takes every GPU, or every CPU")


class TrainConfig(Section):
    """Stage train: distillation of the sampler."""

    steps: int = Field(400, ge=0, description="0 takes train.warm_start as it is")
    rows: int = Field(
        0, ge=0, description="training rows to use, from first_row on; 0: all that follow"
    )
    first_row: int = Field(
        0,
        ge=0,
        description="first training row to use, so that a later round can take rows no round saw",
    )
    seed: int = Field(
        0, description="of weights and draws, added to run.seed, which the corpus shares"
    )
    batch_size: PositiveInt = Field(32, description="states per step, over all workers")
    accumulate: PositiveInt = Field(
        1,
        description="fewest parts into which a worker cuts its share of the batch; more where memory ends",
    )
    warm_start: str | None = Field(None, description="folder of a sampler of the same shape")
    optimizer: Literal["muon", "adamw"] = Field("muon", description="muon: AdamW for the norms")
    lr: float = Field(2e-3, gt=0, description="of AdamW")
    muon_lr: float = Field(0.015, gt=0)
    warmup_steps: int = Field(20, ge=0)
    cooldown: Share = Field(0.5, description="share of the steps over which lr falls to 0")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest gradient norm; adamw only")
    k_max: int = Field(8, ge=2, description="longest round that the sampler is trained for")
    depth_decay: float = Field(0.5, gt=0, le=1, description="softmax(decay ** depth) weighs depths")
    deeper: float = Field(
        1.0,
        gt=0,
        le=1,
        description="chance of unrolling one depth more; 1: always to k_max. A hybrid unrolls none",
    )
    near: PositiveInt = Field(2, description="positions revealed next that enter the loss")
    far: int = Field(4, ge=0, description="random other masked positions that enter the loss")
    cache_gib: float = Field(0, ge=0, description="teacher states kept in memory, per worker")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 1
    workers: int = Field(0, ge=0, description="0 takes every GPU, or every CPU")
    min_workers: int = Field(
        0,
        ge=0,
        description="fewest workers to go on with while nodes are away; 0: always train.workers",
    )
    report_every: PositiveInt = 10
    validate_every: PositiveInt = 100
    validate_k: list[Annotated[int, Field(ge=2)]] = Field(
        [4],
        min_length=1,
        description="the weights kept are those with the best mean captured dependency at these k",
    )
    validate_rows: PositiveInt = 32
    patience: int = Field(
        0, ge=0, description="validations without improvement after which it stops; 0: never stops"
    )
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
    """Stage sweep: trials of sampler and training settings; the best is then trained to the end."""

    space: dict[str, list[Any] | Range] = Field(
        {},
        description="config key of sampler or train -> list of values, or low, high, log",
    )
    variants: dict[Annotated[str, Field(pattern=r"^[\w\-. :/]+$")], dict[str, Any]] = Field(
        {},
        description="name -> config keys of sampler or train with one value each, tried at every point "
        "of the space (an ablation); without space and variants there is no sweep",
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
    """Stage evaluate: samples and block KL for every method and k."""

    methods: list[str] = ["marginal", "refresh", "joint"]
    ks: list[PositiveInt] = [1, 2, 4, 8]
    samples: PositiveInt = Field(160, description="per method, k and generation seed")
    generation_seeds: PositiveInt = 2
    kmeans_seeds: Annotated[int, Field(ge=2)] = 5
    samples_per_item: PositiveInt = 80
    judge: str = Field("smollm2", description="smollm2, none, or any causal LM by hub id or folder")
    judge_revision: str | None = Field(None, description="of the judge's hub repository")
    shown: PositiveInt = Field(4, description="sample texts side by side in the report")
    actors: int = Field(0, ge=0, description="0 takes every GPU, or every CPU")


class EstimateConfig(Section):
    """Stage estimate and --plan: the machine that a forecast is for."""

    gpus: int = Field(0, ge=0, description="0: those of the cluster, else of this machine")
    gpu_flops: float = Field(
        3e14,
        gt=0,
        description="sustained FLOP/s of one GPU in bfloat16; an assumption, measure yours",
    )
    core_flops: float = Field(5e10, gt=0, description="sustained FLOP/s of one CPU core")
    response_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of corpus.max_new_tokens after which the last row of a batch has ended",
    )
    storage_bytes_per_second: float = Field(
        2e9, gt=0, description="of the shared storage that all GPUs load the weights from"
    )


class Config(Section):
    run: RunConfig = RunConfig()
    teacher: TeacherConfig = TeacherConfig()
    sampler: SamplerConfig = SamplerConfig()
    columns: ColumnsConfig = ColumnsConfig()
    corpus: CorpusConfig = CorpusConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    estimate: EstimateConfig = EstimateConfig()
