"""What to try, from where a stage's time goes. Each sentence follows from figures of its own and names a recipe's key.

The thresholds are ours: below them nothing that the sentence names could shorten a step by a tenth.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from kd2edge import schema
from kd2edge.kd import devices

LARGE = 64  # pixels of a side, from which torch.compile may pay on a processor: a third less at 112, nothing at 32
SHORT = 8.0  # ms of a step on a GPU, below which starting kernels takes as long as they do


@dataclass(frozen=True)
class About:
    """What a stage computes and how; `batch` and `size` (H, W) are of the images of one step of this process.

    `held` says that the split lies decoded in memory, `recallable` that the teacher's outputs could be kept.
    """

    name: str = "training"
    plan: schema.Train | None = None
    batch: int = 0
    size: tuple[int, int] = (0, 0)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    compiled: str = "off"
    held: bool = True
    recallable: bool = False
    remember: bool = False


@dataclass(frozen=True)
class Profile:
    """One stage, as measured over `steps` steps after the first: each span's ms of a step, and its share of it."""

    stage: str
    steps: int
    first_step_seconds: float
    images_per_second: float
    ms: dict[str, float]
    share: dict[str, float]


def advice(about: About, found: Profile) -> list[str]:
    """Sentences, each for one finding; none where nothing stands out."""
    told = [*_feeding(about, found.share), *_teaching(about, found.share), *_computing(about, found)]
    return [f"{found.stage}: {text}" for text in told]


def _feeding(about: About, share: dict[str, float]) -> Iterator[str]:
    if share["data"] > 0.2 and not about.held:
        yield (
            f"{share['data']:.0%} is waiting for images: keep them as shards (data.name=webdataset) on a quicker disk, "
            "decode smaller ones (data.size), or give the training more processor cores"
        )
    if share["augment"] > 0.2:
        affine = about.plan is not None and about.plan.augment.affine is not None
        dear = "train.augment.affine, which resamples every image," if affine else "train.augment"
        yield f"{share['augment']:.0%} is augmentation: see what accuracy {dear} is worth here"


def _teaching(about: About, share: dict[str, float]) -> Iterator[str]:
    if share["teacher"] <= 0.3:
        return
    here = f"{share['teacher']:.0%} is the teacher"
    plain = about.plan is not None and about.plan.augment == schema.Augment()
    if about.recallable and not about.remember and plain:
        yield f"{here}: nothing is augmented, so teacher.remember=true asks it once for each image"
    elif about.recallable and not about.remember:
        yield (
            f"{here}: teacher.remember=true keeps its answers for later runs on the same images (a study, other "
            "weights of the losses); with train.augment left empty one pass would serve all epochs"
        )


def _computing(about: About, found: Profile) -> Iterator[str]:
    share, gpu = found.share, about.device.type == "cuda"
    nets = share["teacher"] + share["student"] + share["backward"]
    quicker = devices.precision("auto", about.device)
    if about.precision == "fp32" and quicker != "fp32" and nets > 0.5:
        yield f"{nets:.0%} is the nets, in fp32 where the machine has {quicker} in hardware: train.precision=auto"
    if about.compiled == "off" and min(about.size) >= LARGE and nets > 0.6:
        yield (
            f"{nets:.0%} is the nets, at {about.size[0]} x {about.size[1]} pixels: see whether train.compile=on pays "
            "here, which depends on net and machine"
        )
    if gpu and about.compiled != "graphs" and sum(found.ms.values()) < SHORT:
        yield f"a step is {sum(found.ms.values()):.1f} ms, mostly starting kernels: train.compile=graphs"
    if share["optimizer"] > 0.2:
        yield f"{share['optimizer']:.0%} is the optimizer: fewer steps of more images (train.batch) ask it less often"
    if share["waiting"] > 0.15:
        yield f"{share['waiting']:.0%} is waiting for other processes: give each more images a step (train.batch)"
    if share["else"] > 0.15:
        parts = about.plan is not None and about.plan.accumulate > 1
        cure = "compute a step in fewer parts (train.accumulate)" if parts else "take more images a step (train.batch)"
        yield f"{share['else']:.0%} is none of the above, so a step of {about.batch} images is small: {cure}"
