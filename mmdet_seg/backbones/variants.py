"""Every published InternViT encoder and the small ones that tests and the built-in run use.

Source of the published rows: the model cards and configurations of OpenGVLab's repositories; sizes
are checked against their full key and shape lists in the tests.
"""

from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Arch:
    """Shape of an encoder.

    Attributes:
        embed_dim: Channels D.
        depth: Number of blocks.
        num_heads: Attention heads; each has ``embed_dim / num_heads`` channels.
        mlp_ratio: Hidden channels of the MLP over D.
        patch_size: Pixels P along one side of a patch.
        img_size: Pixels along one side of the images that the position table was made for.
        qkv_bias: Whether the fused query-key-value projection has a bias.
        qk_norm: RMS-normalise queries and keys over all heads together.
        norm: ``'rms'`` or ``'layer'``.
        norm_eps: Added to the variance inside every norm.
        layer_scale_init: Start value of the residual branches' scale.
        drop_path_rate: Rate at the last block; earlier ones rise linearly from 0.
        num_prefix_tokens: Tokens before the patches: 1 (class token) or 0.
        hub_id: Where the published weights are; empty where there are none.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    patch_size: int = 14
    img_size: int = 224
    qkv_bias: bool = False
    qk_norm: bool = True
    norm: str = 'rms'
    norm_eps: float = 1e-6
    layer_scale_init: float = 0.1
    drop_path_rate: float = 0.0
    num_prefix_tokens: int = 1
    hub_id: str = ''

    def __post_init__(self) -> None:
        if self.norm not in ('rms', 'layer'):
            raise ValueError(f"norm={self.norm!r} is not one of 'rms', 'layer'.")
        if self.num_prefix_tokens not in (0, 1):
            raise ValueError(f'num_prefix_tokens={self.num_prefix_tokens} is not 0 or 1.')
        for name in ('embed_dim', 'depth', 'num_heads', 'patch_size', 'img_size'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)} is not a positive number.')
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f'embed_dim={self.embed_dim} is not a multiple of num_heads={self.num_heads}.'
            )
        if self.img_size % self.patch_size:
            low = max(self.img_size // self.patch_size, 1) * self.patch_size
            high = low + self.patch_size
            best = low if self.img_size - low <= high - self.img_size else high
            raise ValueError(
                f'img_size={self.img_size} is not a multiple of patch_size={self.patch_size}; '
                f'nearest that fits: {best}.'
            )

    @property
    def grid_size(self) -> int:
        """Patches along one side of a native image."""
        return self.img_size // self.patch_size

    @property
    def mlp_dim(self) -> int:
        """Hidden channels of the MLP."""
        return round(self.embed_dim * self.mlp_ratio)

    def to_dict(self) -> dict[str, Any]:
        """The fields that make the shape (``hub_id`` says where, not what)."""
        return {k: v for k, v in asdict(self).items() if k != 'hub_id'}


_6B = Arch(embed_dim=3200, depth=45, num_heads=25, img_size=448)
_300M = Arch(
    embed_dim=1024,
    depth=24,
    num_heads=16,
    img_size=448,
    qkv_bias=True,
    qk_norm=False,
    norm='layer',
    layer_scale_init=1.0,
    drop_path_rate=0.1,
)

ARCHS: dict[str, Arch] = {
    '6b-224px': replace(_6B, depth=48, img_size=224, hub_id='OpenGVLab/InternViT-6B-224px'),
    '6b-448px-v1-0': replace(_6B, depth=48, hub_id='OpenGVLab/InternViT-6B-448px-V1-0'),
    '6b-448px-v1-2': replace(_6B, hub_id='OpenGVLab/InternViT-6B-448px-V1-2'),
    '6b-448px-v1-5': replace(_6B, hub_id='OpenGVLab/InternViT-6B-448px-V1-5'),
    '6b-448px-v2-5': replace(_6B, hub_id='OpenGVLab/InternViT-6B-448px-V2_5'),
    '300m-448px': replace(_300M, hub_id='OpenGVLab/InternViT-300M-448px'),
    '300m-448px-v2-5': replace(_300M, hub_id='OpenGVLab/InternViT-300M-448px-V2_5'),
    # Ours: `tiny` for tests, `small` for the built-in scenes (train from scratch on two cores).
    'tiny': Arch(embed_dim=32, depth=4, num_heads=2, mlp_ratio=2.0, img_size=56),
    'small': replace(_300M, embed_dim=192, depth=6, num_heads=3, img_size=224, drop_path_rate=0.0),
}


def get_arch(arch: 'str | dict[str, Any] | Arch', **overrides: Any) -> Arch:
    """Look an encoder's shape up.

    Args:
        arch: Name in :data:`ARCHS` or a dict of the fields of :class:`Arch`.
        overrides: Fields to replace; None leaves the field as it is.

    Raises:
        ValueError: Unknown name or field, or fields that do not fit together.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            close = get_close_matches(arch.lower().replace('_', '-'), ARCHS, n=1, cutoff=0.4)
            hint = f' Did you mean {close[0]}?' if close else ''
            raise ValueError(f'arch={arch!r} is not one of {", ".join(ARCHS)}.{hint}')
        arch = ARCHS[arch]
    given = {k: v for k, v in overrides.items() if v is not None}
    known = {f.name for f in fields(Arch)}
    unknown = sorted(set(given) - known | (set(arch) - known if isinstance(arch, dict) else set()))
    if unknown:
        raise ValueError(
            f'{", ".join(unknown)}: not a field of arch; there are {", ".join(sorted(known))}.'
        )
    if isinstance(arch, dict):
        missing = [k for k in ('embed_dim', 'depth', 'num_heads') if k not in {**arch, **given}]
        if missing:
            raise ValueError(f'arch has no {", ".join(missing)}; a dict needs at least these.')
        return Arch(**{**arch, **given})
    return replace(arch, **given)


def even_taps(depth: int, num: int) -> tuple[int, ...]:
    """Indices of ``num`` evenly spaced blocks that end with the last.

    Equals the published taps: (11, 23, 35, 47) of 48 blocks, (11, 22, 33, 44) of 45.
    """
    return tuple(-(-(i + 1) * depth // num) - 1 for i in range(num))
