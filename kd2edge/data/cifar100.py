"""CIFAR-100: 50,000 training and 10,000 test photographs of 100 classes in 20 superclasses, 32 x 32 pixels.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, chapter 3. Read in any of three forms with
the same images in the same order: the official Python version, whose pickles are never unpickled, the binary one, .npz.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from kd2edge.data import Images, InMemory
from kd2edge.data._cifar import Cifar, CifarConfig
from kd2edge.data._cifar_forms import Columns, Kind
from kd2edge.errors import UserError

SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
COARSE = list(SUPERCLASSES)
SUPERCLASS = {name: place for place, names in enumerate(SUPERCLASSES.values()) for name in names.split()}
FINE = sorted(SUPERCLASS)  # labels follow the alphabet, in both lists
COARSE_OF = np.array([SUPERCLASS[name] for name in FINE], np.int64)
TAKE = "unpack cifar-100-python.tar.gz or cifar-100-binary.tar.gz there, or set data.path"


class Cifar100(Cifar):
    """Normalised by the mean and deviation of its own training images, as the literature's teachers are.

    The superclass of each image is its group "coarse".
    """

    kind = Kind(
        name="CIFAR-100",
        slug="cifar-100",
        columns={"coarse_labels": len(COARSE), "fine_labels": len(FINE)},
        batches={"train": ["train"], "test": ["test"]},
        binary="cifar-100-binary",
        python="cifar-100-python",
        take=TAKE,
    )
    mean = (0.5071, 0.4867, 0.4408)
    std = (0.2675, 0.2565, 0.2761)

    class Config(CifarConfig):
        """As CIFAR-10's; and `labels` says whether the 100 classes or the 20 superclasses are to be told apart."""

        train_images: int | None = Field(default=None, ge=100, multiple_of=100)
        labels: Literal["fine", "coarse"] = "fine"

    def labelled(self, images: Images, columns: Columns) -> InMemory:
        fine = columns["fine_labels"]
        coarse = columns.get("coarse_labels", COARSE_OF[fine])
        for odd in np.flatnonzero(coarse != COARSE_OF[fine])[:1]:
            raise UserError(
                f"CIFAR-100 in {self.config.path} is damaged: image {odd + 1:,} of those asked for is labelled "
                f"{FINE[fine[odd]]} and {COARSE[coarse[odd]]}, which does not go together.",
                TAKE,
            )
        labels, classes = (fine, FINE) if self.config.labels == "fine" else (coarse, COARSE)
        return InMemory(images, labels, {"coarse": coarse}, list(classes))
