"""What a YAML of each drawer may say: Recipe, Target, Suite, Study.

Unknown keys are refused, and all faults are told at once.
"""

from kd2edge.schema.corruption import Corruptions
from kd2edge.schema.qat import Qat
from kd2edge.schema.quantize import Quantize
from kd2edge.schema.quick import UNSAID, quickened
from kd2edge.schema.recipe import (
    Affine,
    Augment,
    Head,
    NetSpec,
    Preprocessing,
    Recipe,
    ResizedCrop,
    Student,
    Teacher,
    Train,
    Validation,
)
from kd2edge.schema.scenario import MultiStream, Offline, Scenario, Server, SingleStream, Sweep
from kd2edge.schema.section import Flavour, Plugin, Precision, Section, TaskName
from kd2edge.schema.study import Overrides, Search, Study, StudyRow
from kd2edge.schema.suite import Latency, Rule, Suite
from kd2edge.schema.target import BatchRange, Build, Target

__all__ = [
    "UNSAID",
    "Affine",
    "Augment",
    "BatchRange",
    "Build",
    "Corruptions",
    "Flavour",
    "Head",
    "Latency",
    "MultiStream",
    "NetSpec",
    "Offline",
    "Overrides",
    "Plugin",
    "Precision",
    "Preprocessing",
    "Qat",
    "Quantize",
    "Recipe",
    "ResizedCrop",
    "Rule",
    "Scenario",
    "Search",
    "Section",
    "Server",
    "SingleStream",
    "Student",
    "Study",
    "StudyRow",
    "Suite",
    "Sweep",
    "Target",
    "TaskName",
    "Teacher",
    "Train",
    "Validation",
    "quickened",
]
