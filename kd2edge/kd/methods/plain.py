"""No teacher: cross-entropy with the labels. The row every other method is compared with."""

from collections.abc import Iterator

from kd2edge.kd.method import Batch, Losses, Method, Stage


class Plain(Method):
    """L = CE(p_s, y)."""

    needs_teacher = False
    shards = True

    def stages(self) -> Iterator[Stage]:
        yield Stage("student", self.student, self.losses, minimises="cross-entropy")

    def losses(self, batch: Batch) -> Losses:
        return {"ce": self.task.lesson(self.student, batch.images, batch.labels)}
