"""An encoder whose features are known: the mean colour of every patch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdet_seg.probes.frozen_encoder import FrozenEncoder, LayerFeatures


class PixelEncoder(FrozenEncoder):
    """Layer 0 sees nothing, layer 1 the mean colour of a patch, layer 2 its corners' too.

    Its heads look at the brightest patch: head 0 with all it has, head 1 with half of it.
    """

    name, depth, num_heads, img_size = 'pixels', 3, 2, 56
    mean, std = (128.0, 128.0, 128.0), (64.0, 64.0, 64.0)

    def __init__(self, patch_size: int = 8, num_prefix_tokens: int = 1) -> None:
        super().__init__()
        self.patch_size, self.num_prefix_tokens = patch_size, num_prefix_tokens
        self.embed_dim = 15
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def _structure(self) -> object:
        return self.patch_size

    def features(
        self, images: Tensor, layers: Sequence[int], *, final_norm: bool = False
    ) -> dict[int, LayerFeatures]:
        self.check_size(images)
        P = self.patch_size
        mean = nn.functional.avg_pool2d(images, P)
        corners = [images[..., y::P, x::P] for y in (0, P - 1) for x in (0, P - 1)]
        whole = torch.cat([mean, *corners], 1)
        maps = [torch.ones_like(whole), whole * 0, whole]
        maps[1][:, :3] = mean
        maps[1][:, 3] = 1
        prefix = whole.new_zeros(len(whole), self.num_prefix_tokens, self.embed_dim)
        return {n: LayerFeatures(prefix, maps[n]) for n in self.check_layers(layers)}

    def attention(self, images: Tensor, layer: int) -> Tensor:
        bright = nn.functional.avg_pool2d(images.mean(1, keepdim=True), self.patch_size).flatten(1)
        B, N, K = *bright.shape, self.num_prefix_tokens
        T = N + K
        out = torch.zeros(B, 2, T, T)
        for b, best in enumerate(bright.argmax(1).tolist()):
            out[b, 0, :, K + best] = 1
            out[b, 1] = 0.5 / T
            out[b, 1, :, K + best] += 0.5
        return out
