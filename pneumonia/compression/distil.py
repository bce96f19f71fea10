"""A quantized student that learns from a full-precision teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0, share: float = 0.7
) -> Tensor:
    """(1 - share) * cross-entropy + share * T**2 * KL(teacher_T || student_T), batch mean.

    Args:
        student: Logits (N, K).
        teacher: Logits (N, K); no gradient flows into them.
        labels: int64 (N,).
        temperature: Softens both distributions.
        share: Weight of the teacher, 0 .. 1.
    """
    with torch.no_grad():
        target = F.log_softmax(teacher / temperature, dim=1)
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=1), target, reduction="batchmean", log_target=True
    )
    return (1 - share) * F.cross_entropy(student, labels) + share * temperature**2 * soft
