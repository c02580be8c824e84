"""The encoder of every probe's command line: which one, in which precision, where it runs."""

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmdet_seg.probes.frozen_encoder import FrozenEncoder

QUANTIZATIONS = ('int8', 'fp8')
_SOURCES = (
    'checkpoint in any published layout, hub id, name of a published encoder (6b-224px), '
    'checkpoint of a run; timm:NAME[@FILE], hf:PATH, random:NAME'
)
_UNMEASURED = ' What that changes in the score is not measured (--no-compare-quantized).'


def add_encoder_arguments(
    parser: argparse.ArgumentParser, *, positional: bool = True, required: bool = True
) -> None:
    """Declare what says which encoder: which one, its precision and how it is quantised.

    Args:
        parser: Of a job. ``--device`` is the job's own; :func:`encoder_from` follows it.
        positional: False makes it the option ``--encoder``, where the images come first.
        required: Whether that option has to be given.
    """
    if positional:
        parser.add_argument('encoder', metavar='ENCODER', help=_SOURCES)
    else:
        parser.add_argument('--encoder', metavar='ENCODER', required=required, help=_SOURCES)
    parser.add_argument(
        '--dtype', choices=('bf16', 'fp16', 'fp32'), help='of the weights (default: bf16)'
    )
    parser.add_argument(
        '--quantize',
        choices=QUANTIZATIONS,
        help='hold the weights in 8 bits; the change in the features is printed',
    )
    parser.add_argument(
        '--compare-quantized',
        action=argparse.BooleanOptionalAction,
        help='with --quantize: do everything twice and print the change in every score, or in the '
        'features of every image (default: yes)',
    )


def encoder_from(args: argparse.Namespace) -> 'FrozenEncoder':
    """The encoder that the arguments of :func:`add_encoder_arguments` mean, where it will run.

    It is put on ``args.device`` (where there is none: CUDA if it is there, else the CPU). What
    quantisation changed is printed on standard error and kept as ``encoder.quantization_report``.

    Raises:
        FileNotFoundError: No such encoder.
        ValueError: It cannot be read, is no plain ViT, or the device cannot do this.
    """
    from mmdet_seg.probes.frozen_encoder import open_encoder

    device = resolve_device(getattr(args, 'device', None))
    encoder = open_encoder(args.encoder, dtype=args.dtype).to(device)
    if how := getattr(args, 'quantize', None):
        from mmdet_seg.probes.quantized_encoder import quantize_encoder

        encoder.quantization_report = quantize_encoder(encoder, how)
        unmeasured = _UNMEASURED if getattr(args, 'compare_quantized', None) is False else ''
        print(encoder.quantization_report.text() + unmeasured, file=sys.stderr, flush=True)
    return encoder


def check_comparison(args: argparse.Namespace) -> None:
    """Refuse a comparison without anything to compare with.

    Raises:
        ValueError: ``--compare-quantized`` without ``--quantize``.
    """
    if args.compare_quantized and not args.quantize:
        raise ValueError('--compare-quantized compares with --quantize int8 or fp8; name one.')


def resolve_device(name: str | None) -> str:
    """Where to run; None and ``auto`` take CUDA if it is there.

    Raises:
        ValueError: There is no such device.
    """
    import torch

    if name in (None, '', 'auto'):
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f'--device {name} is no device; it is cpu, cuda or cuda:1.') from None
    if device.type == 'cuda':
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(f'--device {name}: PyTorch sees {count} CUDA devices; use cpu.')
    return name
