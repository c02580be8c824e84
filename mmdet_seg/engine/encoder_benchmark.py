"""Our encoder beside timm's and transformers' with the same weights, in one run.

The candidates take turns, so a machine that slows down slows all of them; medians over the turns
are reported. The rate of a plain matrix product says how much of the machine each one uses.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.checkpoint_writer import save_encoder
from mmdet_seg.backbones.peer_libraries import import_timm, import_transformers
from mmdet_seg.backbones.variants import Arch, get_arch

OURS = 'mmdet_seg InternViT'
_MATRIX = (1024, 1024, 4096)  # rows, in, out: about the shape of a large linear layer


@dataclass(frozen=True)
class Row:
    """One candidate at one dtype and batch.

    Attributes:
        name: Whose encoder.
        dtype: Short name.
        batch: Images at once.
        images_per_second: Median over the turns.
        gflops_per_second: Products of matrices only.
        matrix_share: Of the rate of a plain matrix product in the same dtype.
        ratio: Our rate over this one's, median over the turns.
        difference: ``max|a - b| / max|b|`` of the tokens to ours.
    """

    name: str
    dtype: str
    batch: int
    images_per_second: float
    gflops_per_second: float
    matrix_share: float
    ratio: float
    difference: float


def run(
    arch: str = '300m-448px-v2-5',
    dtypes: Sequence[str] = ('fp32', 'bf16'),
    batches: Sequence[int] = (1, 4),
    rounds: int = 5,
    device: str = 'cpu',
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Measure every candidate at every dtype and batch.

    Raises:
        ValueError: The peers are not installed, or have no encoder of this kind.
    """
    shape = get_arch(arch)
    torch.manual_seed(0)
    ours = InternViT(shape).eval()
    rows = []
    for dtype_name in dtypes:
        dtype = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}[dtype_name]
        models = {OURS: ours, **peers(ours)}
        calls = {
            name: _tokens(model.to(device, dtype).eval(), name) for name, model in models.items()
        }
        for batch in batches:
            progress(f'{arch} {dtype_name} batch {batch}: {rounds} rounds of {len(calls)} encoders')
            x = torch.randn(batch, 3, shape.img_size, shape.img_size, device=device, dtype=dtype)
            rows += _measure(calls, x, dtype_name, shape, rounds)
        ours = ours.float()
    return rows


def peers(ours: InternViT) -> dict[str, nn.Module]:
    """timm's and transformers' encoder of the same kind, with the same weights."""
    arch = ours.arch
    timm, transformers = import_timm(), import_transformers()
    found = {}
    if arch.norm == 'layer' and not arch.qk_norm:
        model = timm.create_model(
            'vit_intern300m_patch14_448',
            num_classes=0,
            embed_dim=arch.embed_dim,
            depth=arch.depth,
            num_heads=arch.num_heads,
            img_size=arch.img_size,
        )
        model.load_state_dict(ours.state_dict())
        found[f'timm {timm.__version__}'] = model
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'native'
        save_encoder(ours.state_dict(), arch, path, 'native')
        model = transformers.InternVLVisionModel.from_pretrained(path)
    found[f'transformers {transformers.__version__}'] = model
    return found


def _tokens(model: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    if name.startswith('transformers'):
        return lambda x: model(pixel_values=x).last_hidden_state
    return model.forward_features


@torch.inference_mode()
def _measure(
    calls: dict[str, Callable[[Tensor], Tensor]], x: Tensor, dtype: str, arch: Arch, rounds: int
) -> list[Row]:
    outs = {name: call(x).float() for name, call in calls.items()}  # also warms up
    ours = outs[OURS]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    matrix = []
    for _ in range(rounds):
        matrix.append(_matrix_rate(x))
        for name, call in calls.items():
            seconds[name].append(_time(lambda call=call: call(x), x.device))
    work, rate = len(x) * image_gflops(arch), median(matrix)
    rows = []
    for name, times in seconds.items():
        ratios = [t / o for t, o in zip(times, seconds[OURS], strict=True)]
        rows.append(
            Row(
                name,
                dtype,
                len(x),
                len(x) / median(times),
                work / median(times),
                work / median(times) / rate,
                median(ratios),
                ((outs[name] - ours).abs().max() / ours.abs().max()).item(),
            )
        )
    return rows


def _time(call: Callable[[], object], device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _matrix_rate(like: Tensor) -> float:
    """GFLOP/s of ``a @ b.T``, best of ten."""
    rows, inner, outer = _MATRIX
    a = torch.randn(rows, inner, device=like.device, dtype=like.dtype)
    b = torch.randn(outer, inner, device=like.device, dtype=like.dtype)
    best = min(_time(lambda: torch.mm(a, b.t()), like.device) for _ in range(10))
    return 2e-9 * rows * inner * outer / best


def image_gflops(arch: Arch) -> float:
    """Products of matrices for one native image, in GFLOP (a multiply-add is two)."""
    D, M, P = arch.embed_dim, arch.mlp_dim, arch.patch_size
    N = arch.grid_size**2
    tokens = N + arch.num_prefix_tokens
    block = 2 * tokens * D * (4 * D + 2 * M) + 4 * tokens**2 * D
    return 1e-9 * (arch.depth * block + 2 * N * 3 * P * P * D)


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        '| encoder | dtype | batch | images/s | GFLOP/s | of matrix rate | ours is | difference |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        ratio = '' if row.name == OURS else f'{row.ratio:.2f} x'
        difference = '' if row.name == OURS else f'{row.difference:.0e}'
        lines.append(
            f'| {row.name} | {row.dtype} | {row.batch} | {row.images_per_second:.3f} | '
            f'{row.gflops_per_second:.0f} | {100 * row.matrix_share:.0f} % | {ratio} | '
            f'{difference} |'
        )
    return '\n'.join(lines)
