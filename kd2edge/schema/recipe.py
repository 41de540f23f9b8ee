"""Recipe: one YAML of `recipes/`, and its sections."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from kd2edge.schema.qat import Qat
from kd2edge.schema.quantize import Quantize
from kd2edge.schema.section import Plugin, Section, TaskName


class Preprocessing(Section):
    """What stands between an image file and a network's input, as constants that an artifact's manifest can carry.

    `size` is (H, W); `mean` and `std`, one number per channel, are in units of pixel / 255; `decoder` names the
    library, its version and the resize filter: "pillow 13.0.0/box".
    """

    size: tuple[int, int]
    channels: int
    color: Literal["L", "RGB"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    decoder: str

    @model_validator(mode="after")
    def _one_constant_per_channel(self) -> "Preprocessing":
        channels = {"L": 1, "RGB": 3}[self.color]
        if not self.channels == len(self.mean) == len(self.std) == channels:
            raise ValueError(f"{self.color} images need channels = {channels}, with one mean and one std each")
        if min(self.std) <= 0 or min(self.size) < 1:
            raise ValueError("every std and both sides of the size must be positive")
        return self


class Head(Section):
    """The classifier: `linear`, or a cosine head with scale s and margin m (ArcFace 1801.07698, CosFace 1801.09414).

    `sample` is the share of classes that a training step sees, the batch's own always among them (Partial FC,
    2203.15565); 1 is the full softmax. `sharded` splits the classes over the processes that train together, none of
    which holds them all. The student's says what the teacher is asked, too.
    """

    name: Literal["linear", "cosine", "arcface", "cosface"] = "linear"
    scale: float = Field(32.0, gt=0)
    margin: float = Field(0.3, ge=0, lt=1.6)
    sample: float = Field(1.0, gt=0, le=1)
    sharded: bool = False

    @model_validator(mode="after")
    def _only_cosine_heads_sample(self) -> "Head":
        if self.sample < 1 and self.name == "linear":
            raise ValueError("sample is for the cosine heads: set head.name to cosine, arcface or cosface")
        return self


class NetSpec(Section):
    """Backbone, neck and head. `embedding: null` hands the pooled features to the head as they are."""

    model: Plugin
    neck: Literal["gap", "gdc"] = "gap"
    embedding: int | None = Field(None, ge=2)
    head: Head = Head()


class Affine(Section):
    """Random affine maps: rotation and shear in degrees, scale in and out, translation as a share of the size."""

    degrees: float = Field(0.0, ge=0, le=180)
    shear: float = Field(0.0, ge=0, le=45)
    scale: float = Field(0.0, ge=0, lt=1)
    translate: float = Field(0.0, ge=0, lt=0.5)


class ResizedCrop(Section):
    """A part of each image, of random `area` and shape, drawn out to its size: Inception's crop (1409.4842, section 6).

    Both are (least, most) shares: of the image's area, and of its width to height. It is cut from what the data set
    delivers, which for photographs is their middle.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _a_part(self) -> "ResizedCrop":
        if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.ratio[0] <= 1 <= self.ratio[1]:
            raise ValueError("area lies within 0 and 1, and ratio is from at most 1 to at least 1")
        return self


class Augment(Section):
    resized_crop: ResizedCrop | None = None
    affine: Affine | None = None
    flip: bool = False
    crop_padding: int = Field(0, ge=0)


class Train(Section):
    """In epochs, 0 of which train nothing; `precision: auto` is bf16 where the device has that, else fp32.

    `device: auto` is an NVIDIA GPU where torch can use one, else the processor. `batch` is the images of one step, over
    all processes and all `accumulate` parts in which each computes its share. `ema` is the decay of a moving average of
    the weights, taken at every step, that ships in their place. `compile` is torch.compile of the nets: `auto` where it
    was measured to pay, `graphs` with CUDA graphs besides. `sync_batch_norm` takes statistics over all processes.
    """

    epochs: int = Field(ge=0)
    batch: int = Field(128, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "polynomial", "step", "constant"] = "cosine"
    warmup: float = Field(0.0, ge=0)
    milestones: tuple[float, ...] = ()
    gamma: float = Field(0.1, gt=0, le=1)
    clip: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1)
    accumulate: int = Field(1, ge=1)
    sync_batch_norm: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto", "off", "on", "graphs"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    augment: Augment = Augment()

    @field_validator("compile", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: object) -> object:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Student(NetSpec):
    """The net that learns, from the start, or from `weights`: those of a checkpoint or an embedded name."""

    weights: str | None = None


class Teacher(NetSpec):
    """The net that teaches. `weights`: an embedded name, a checkpoint's path, or null to train it anew by `train`.

    `head_from: centres` is for weights without a classifier: a cosine head is rebuilt from the class centres of its
    embeddings on the training images. `seed` is for its own training, by default the recipe's. `remember` keeps its
    embeddings of the augmented images beside the run, for runs that see the same ones again: N x d values an epoch, or
    in all where nothing augments.
    """

    weights: str | None = None
    head_from: Literal["weights", "centres"] = "weights"
    train: Train | None = None
    seed: int | None = Field(None, ge=0)
    remember: bool = False

    @model_validator(mode="after")
    def _centres_need_weights(self) -> "Teacher":
        trained = self.weights is not None or self.model.name == "onnx" or self.model.options.get("pretrained")
        if self.head_from == "centres" and (not trained or self.head.name == "linear"):
            raise ValueError("head_from: centres goes with weights, and with a head of cosine, arcface or cosface")
        if self.head_from == "centres" and self.weights is None and self.embedding is not None:
            raise ValueError("embedding would put an untrained layer behind this teacher: set teacher.embedding=null")
        return self


class Validation(Section):
    """Judging what is being trained on a split of the data set, after every so many epochs; never on "test"."""

    split: Literal["val"] = "val"
    every: int = Field(1, ge=1)


class Recipe(Section):
    """One YAML of `recipes/`: a teacher, a student, a method, a data set, a schedule, a quantization plan.

    `track` names who else is told the figures of the training log, beside the run's own files.
    """

    about: str
    task: TaskName
    seed: int = Field(0, ge=0)
    data: Plugin
    teacher: Teacher | None = None
    student: Student
    method: Plugin
    train: Train
    validation: Validation | None = None
    track: tuple[Literal["tensorboard", "mlflow"], ...] = ("tensorboard",)
    quantize: Quantize = Quantize()
    qat: Qat | None = None
    compare: tuple[str, ...] = ()
    target: str = "onnx-cpu"
    suite: str = "default"
