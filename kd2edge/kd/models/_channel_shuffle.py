"""Channel shuffle: lets the groups of a grouped convolution, or the halves of a split, hear of each other.

Zhang et al., arXiv 1707.01083, figure 1; written as reshape, transpose, reshape, which every runtime knows.
"""

from torch import Tensor


def shuffled(x: Tensor, groups: int) -> Tensor:
    """[N, C, H, W] → the same channels, the first of every group before the second of any."""
    count, channels, height, width = x.shape
    grouped = x.reshape(count, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(count, channels, height, width)
