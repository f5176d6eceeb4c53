"""The plan of a training: which sampler, on which rows, with which settings. Starts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from jointsampler import JointSampler, Teacher
from jointsampler.columns import get_policy
from jointsampler.config import ColumnsConfig, Config, SamplerConfig, TrainConfig
from jointsampler.errors import UserError
from jointsampler.sampler import sampler_folder
from jointsampler.storage import sha256
from workflows import corpus, teachers
from workflows.stage import digest


@dataclass(frozen=True)
class TrainPlan:
    out: Path
    folder: Path  # where the sampler goes
    corpus: corpus.CorpusPlan
    sampler: SamplerConfig
    columns: ColumnsConfig
    settings: TrainConfig
    seed: int
    trial: str = ""  # tells trials of a sweep apart that drew the same values

    stage = "train"

    @property
    def key(self) -> str:
        # Without the workers: a run that was cut off may go on with another number of them.
        settings = self.settings.model_dump(
            exclude={"report_every", "max_failures", "workers", "min_workers"}
        )
        start = self.settings.warm_start
        weights = start and sha256((sampler_folder(start) / "model.safetensors").read_bytes())
        shape = self.sampler.model_dump(), self.columns.model_dump()
        return digest(self.corpus.key, *shape, settings, self.seed, weights)

    @property
    def curve(self) -> Path:
        """The learning curve, kept for the report."""
        return self.out / "curves" / f"{self.key}{self.trial}.jsonl"

    def intact(self) -> bool:
        return all((self.folder / name).is_file() for name in ("config.json", "model.safetensors"))


def plan(config: Config, out: Path) -> TrainPlan:
    return plan_on(corpus.plan(config, out), config, out / "sampler")


def plan_on(corpus_plan: corpus.CorpusPlan, config: Config, folder: Path) -> TrainPlan:
    """The training of ``config`` on a corpus that is planned already; the sampler goes to ``folder``.

    Raises UserError where settings contradict each other or do not fit the teacher.
    """
    settings, seed = config.train, config.run.seed + config.train.seed
    teacher = teachers.describe(config.teacher)
    get_policy(config.columns.policy)
    new_sampler(config.sampler, config.columns, settings, seed, teacher)
    training_rows(settings, corpus_plan.settings.rows)
    check_start(settings, teacher)
    check_workers(settings)
    check_rounds(settings, config.corpus.max_new_tokens)
    if settings.zero_stage == 3 and settings.optimizer == "muon":
        raise UserError(
            "train.optimizer=muon needs whole matrices, which train.zero_stage=3 divides among the "
            "workers: set train.zero_stage to 2 or less, or train.optimizer=adamw."
        )
    return TrainPlan(
        corpus_plan.out, folder, corpus_plan, config.sampler, config.columns, settings, seed
    )


def training_rows(settings: TrainConfig, rows: int) -> range:
    """The training rows to use, of the corpus's ``rows``; UserError where it has no such rows."""
    last = settings.first_row + settings.rows if settings.rows else rows
    if settings.first_row >= last or last > rows:
        named = {"train.first_row": settings.first_row, "train.rows": settings.rows}
        asked = " with ".join(f"{key}={value}" for key, value in named.items() if value)
        raise UserError(f"{asked} exceeds the corpus's training rows, corpus.rows={rows}.")
    return range(settings.first_row, last)


def check_start(settings: TrainConfig, teacher: Teacher) -> None:
    """UserError where there is no sampler to make or take."""
    if not settings.steps:
        if settings.warm_start is None:
            raise UserError(
                "train.steps=0 trains nothing: name the sampler to take as it is in train.warm_start."
            )
        JointSampler.from_pretrained(settings.warm_start).check_fingerprint(teacher)


def most_workers(settings: TrainConfig) -> int:
    """The largest number of workers whose shares of a batch, even or not, hold a state for every part."""
    return settings.batch_size // settings.accumulate


def check_workers(settings: TrainConfig) -> None:
    """UserError where a batch is too small for its parts or workers, or the workers cannot vary."""
    fewest, most = settings.min_workers, settings.workers
    if max(most, 1) > most_workers(settings):
        needs = f"train.workers={most} with " if most else ""
        raise UserError(
            f"{needs}train.accumulate={settings.accumulate} needs at least "
            f"{max(most, 1) * settings.accumulate} states per step, not train.batch_size="
            f"{settings.batch_size}: take a larger batch, fewer parts or fewer workers."
        )
    if not fewest:
        return
    if most < fewest:
        raise UserError(
            f"train.min_workers={fewest} needs train.workers, the largest number of workers: at least as "
            f"many, not {most}."
        )
    if settings.zero_stage == 3:
        raise UserError(
            "train.min_workers lets the number of workers change, which train.zero_stage=3 would answer "
            "with a fresh optimizer each time: set train.zero_stage to 2 or less."
        )


def check_rounds(settings: TrainConfig, length: int) -> None:
    """UserError where a round would be longer than the response."""
    for key, longest in (
        ("train.validate_k", max(settings.validate_k)),
        ("train.k_max", settings.k_max),
    ):
        if longest > length:
            raise UserError(
                f"{key}={longest} exceeds corpus.max_new_tokens={length}: no round can be longer than "
                "the response."
            )


def new_sampler(
    shape: SamplerConfig,
    columns: ColumnsConfig,
    settings: TrainConfig,
    seed: int,
    teacher: Teacher,
) -> JointSampler:
    """Untrained, or with the weights of ``train.warm_start``; UserError where it does not fit the teacher."""
    sampler = JointSampler.for_teacher(
        teacher,
        shape.width,
        depth=shape.depth,
        mlp=shape.mlp,
        columns=columns.count,
        policy=columns.policy,
        k_max=settings.k_max,
        seed=seed,
    )
    if settings.warm_start is not None:
        weights = warm_start(settings.warm_start, sampler)
        if teacher.device.type != "meta":
            sampler.load_state_dict(weights)
    return sampler.train()


def warm_start(folder: str, sampler: JointSampler) -> dict[str, Tensor]:
    """The weights in ``folder``; UserError unless they fit ``sampler``."""
    other = JointSampler.from_pretrained(folder)
    same = other.config.depth == sampler.config.depth
    shapes = [{k: v.shape for k, v in one.state_dict().items()} for one in (other, sampler)]
    if not same or shapes[0] != shapes[1]:
        raise UserError(
            f"train.warm_start={folder!r} holds a sampler of another shape (width {other.config.width}, "
            f"depth {other.config.depth}, MLP {other.config.intermediate_size}): set sampler.width, "
            "sampler.depth and sampler.mlp to the same."
        )
    return other.state_dict()
