"""mmcv's CARAFE: upsampling whose kernel is predicted at each place.

Shape letters: B images, C channels in G groups, h x w the small map, s ``scale_factor``, k
``kernel_size``. features (B, C, h, w), masks (B, G * k * k, h * s, w * s), output (B, C, h * s,
w * s): at each place the masks weigh the k x k neighbourhood of the pixel below it.

The neighbourhood is walked one place at a time, so that no tensor is larger than the output.

Source:
    CARAFE, https://arxiv.org/abs/1905.02188.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the upsampled map to ``output``."""
    padded = F.pad(features, [kernel_size // 2] * 4)
    weights = _by_source(masks, group_size, scale_factor)
    total = torch.zeros_like(_by_source(output, group_size, scale_factor))
    for place, window in _windows(padded, kernel_size, group_size):
        total.addcmul_(window, weights[:, :, place, None])
    output.copy_(F.pixel_shuffle(total.flatten(1, 3), scale_factor))


@torch.no_grad()
def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of features and masks."""
    padded = F.pad(features, [kernel_size // 2] * 4)
    grad_padded = torch.zeros_like(padded)
    grads = _by_source(grad_output, group_size, scale_factor)
    weights = _by_source(masks, group_size, scale_factor)
    of_weights = torch.empty_like(weights)
    windows = _windows(padded, kernel_size, group_size)
    of_windows = _windows(grad_padded, kernel_size, group_size)
    for (place, window), (_, of_window) in zip(windows, of_windows, strict=True):
        of_weights[:, :, place] = (grads * window).sum(2)
        of_window += (grads * weights[:, :, place, None]).sum(3, keepdim=True)
    grad_masks.copy_(F.pixel_shuffle(of_weights.flatten(1, 3), scale_factor))
    margin = kernel_size // 2
    height, width = features.shape[2:]
    grad_input.copy_(grad_padded[:, :, margin : margin + height, margin : margin + width])


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    **geometry: int,
) -> None:
    """Write the upsampled map to ``output``, and to ``rfeatures`` what the backward reads.

    The compiled operator keeps channels-last copies in the ``r`` tensors; here ``rfeatures`` holds
    the features as they are and the others stay as they come.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **geometry)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    **geometry: int,
) -> None:
    """Write the gradients of features and masks."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, **geometry)


def _by_source(upsampled: Tensor, groups: int, scale: int) -> Tensor:
    """(B, G * X, h * s, w * s) -> (B, G, X, s * s, h, w)."""
    source = F.pixel_unshuffle(upsampled, scale)
    return source.view(len(source), groups, -1, scale * scale, *source.shape[2:])


def _windows(padded: Tensor, kernel: int, groups: int) -> Iterator[tuple[int, Tensor]]:
    """Every place of the kernel with the view of the map moved there, (B, G, C / G, 1, h, w)."""
    height, width = padded.shape[2] - kernel + 1, padded.shape[3] - kernel + 1
    split = padded.unflatten(1, (groups, -1))[:, :, :, None]
    for place in range(kernel * kernel):
        row, column = divmod(place, kernel)
        yield place, split[..., row : row + height, column : column + width]
