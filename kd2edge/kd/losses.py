"""The textbook losses of distillation, at their textbook scale: means over the batch, independent of class count."""

import torch.nn.functional as F
from torch import Tensor


def kl(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """KL_τ(t‖s) = τ²·Σ_c p_t·(log p_t − log p_s) with p = softmax(logits / τ), averaged over the batch.

    Logits [N, classes] of any float dtype, computed in fp32. Hinton et al., arXiv 1503.02531, section 2.
    """
    log_s = F.log_softmax(student.float() / tau, dim=1)
    log_t = F.log_softmax(teacher.float() / tau, dim=1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * tau**2
