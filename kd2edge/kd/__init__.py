"""The training wing: distillation of classification and face students. The only part of kd2edge that needs torch."""
