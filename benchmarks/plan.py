"""What a training will take: steps, hours, cost and the classifier's memory, from rates that you measured.

    python -m benchmarks.plan --images 1281167 --epochs 100 --batch 256 --rate 2470 --gpus 1 8 64

Arithmetic and nothing else: `--rate` is images/s of one GPU in your own step (`images` / `seconds` of a run's log), and
`--efficiency` what is left of it when several GPUs share a step. docs/scale.md works two examples.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Plan:
    """A training on `gpus` that see `batch` images a step together, each at `rate` images/s when alone."""

    images: int
    epochs: int
    batch: int
    gpus: int
    rate: float
    efficiency: float = 1.0

    @property
    def steps(self) -> int:
        """An epoch leaves out the images that do not fill a batch."""
        return self.epochs * (self.images // self.batch)

    @property
    def hours(self) -> float:
        speed = self.rate * self.gpus * (self.efficiency if self.gpus > 1 else 1.0)
        return self.steps * self.batch / speed / 3600

    def cost(self, price: float) -> float:
        """At a price of one GPU for one hour."""
        return self.hours * self.gpus * price


def classifier(classes: int, width: int, batch: int, share: float = 1.0, gpus: int = 1, teacher: bool = True) -> float:
    """Bytes on each GPU for the student's classifier and its momentum, and the teacher's, split over all of them.

    docs/many-classes.md derives it: 4·[3·C·d + 2·k·d + 6·N·k], where one of several GPUs holds C and k over their
    number, and sees all N images of the step.
    """
    held, seen = classes / gpus, share * classes / gpus
    copies = 3 if teacher else 2
    return FLOAT * (copies * held * width + 2 * seen * width + 6 * batch * seen)


def table(plans: Sequence[Plan], price: float) -> str:
    """A line of Markdown for each plan."""
    lines = ["| GPUs | batch | a GPU | steps | hours | GPU hours | cost |", "|---|---|---|---|---|---|---|"]
    for plan in plans:
        each, hours, gpu_hours = plan.batch / plan.gpus, f"{plan.hours:.1f}", f"{plan.hours * plan.gpus:.0f}"
        numbers = [f"{plan.gpus}", f"{plan.batch:,}", f"{each:g}", f"{plan.steps:,}", hours, gpu_hours]
        lines.append(f"| {' | '.join(numbers)} | {plan.cost(price):,.0f} |")
    return "\n".join(lines)


def memory_table(classes: int, width: int, batches: dict[int, int], shares: Sequence[float]) -> str:
    """GB of classifiers on each GPU, a line for each number of GPUs with its batch, a column for each share."""
    lines = [
        f"| GPUs | batch | {' | '.join(f'q = {share:g}' for share in shares)} |",
        "|---|---|" + "---|" * len(shares),
    ]
    for gpus, batch in batches.items():
        found = [f"{classifier(classes, width, batch, share, gpus) / 1e9:.2f} GB" for share in shares]
        lines.append(f"| {gpus} | {batch:,} | {' | '.join(found)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch", type=int, nargs="+", required=True, help="over all GPUs; one for all, or one each")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1])
    parser.add_argument("--rate", type=float, required=True, help="images/s of one GPU in your step")
    parser.add_argument("--efficiency", type=float, default=1.0, help="what is left of it when GPUs share a step")
    parser.add_argument("--price", type=float, default=1.0, help="of one GPU for one hour")
    parser.add_argument("--classes", type=int, help="also tell the memory of classifiers of so many classes")
    parser.add_argument("--width", type=int, default=512, help="of the embedding")
    given = parser.parse_args(arguments)
    batches = given.batch * len(given.gpus) if len(given.batch) == 1 else given.batch
    if len(batches) != len(given.gpus):
        parser.error("--batch needs one number, or one for each of --gpus")
    pairs = list(zip(given.gpus, batches, strict=True))
    plans = [Plan(given.images, given.epochs, batch, gpus, given.rate, given.efficiency) for gpus, batch in pairs]
    print(table(plans, given.price))
    if given.classes:
        print(f"\n{memory_table(given.classes, given.width, dict(pairs), (1.0, 0.1))}")


if __name__ == "__main__":
    main()
