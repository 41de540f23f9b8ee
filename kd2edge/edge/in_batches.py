"""Any number of images through a session, in batches that it takes: a model may be built for one batch size alone."""

import numpy as np

from kd2edge.edge.session import Floats, Session

AT_ONCE = 32


def in_batches(session: Session, images: Floats, most: int, least: int = 1) -> Floats:
    """Outputs float32 [N, D] of images float32 [N, C, H, W], N > 0, `least` to `most` of them at once.

    Where the batch is fixed, or one of a single image none, the last one is filled up with images from the start, whose
    outputs are left out.
    """
    size = session.fixed_batch or max(least, min(most, AT_ONCE))
    filled = session.fixed_batch is not None or least > 1
    ends = len(images) + (-len(images) % size if filled else 0)
    parts = [
        session.infer(np.ascontiguousarray(images[np.arange(start, min(start + size, ends)) % len(images)]))
        for start in range(0, ends, size)
    ]
    return np.concatenate(parts)[: len(images)]
