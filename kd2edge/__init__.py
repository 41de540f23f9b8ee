"""kd2edge: from "the teacher is good" to "the engine may ship"."""

__version__ = "0.1.0"
