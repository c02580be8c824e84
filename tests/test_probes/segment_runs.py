"""Runs of ``tools/probe.py segment`` that take seconds: the tiny encoder, a dozen small scenes."""

import argparse

import torch
from safetensors.torch import save_file

from mmdet_seg.backbones import InternViT
from mmdet_seg.engine.checkpoint_folder import open_folder
from mmdet_seg.probes import segment_command
from mmdet_seg.probes.segment_run import SegmentRun

# Without `serialize_data` mmengine does not collect garbage twice for every data set.
SCENES = ('num_train=10', 'num_val=3', 'size=(84,112)', 'serialize_data=False')


def make_encoder(path):
    """A tiny encoder whose blocks differ from each other, as a file."""
    torch.manual_seed(3)
    encoder = InternViT('tiny', -1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, path)
    return path


def segment_args(encoder, root, out, *words):
    """Arguments as ``tools/probe.py segment`` parses them."""
    parser = argparse.ArgumentParser()
    segment_command.add_arguments(parser)
    data = [f'{s}_dataloader.dataset.{k}' for s in ('train', 'val') for k in SCENES]
    data += [f'{s}_dataloader.dataset.data_root={root}' for s in ('train', 'val')]
    data += ['val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False']
    fixed = ['--workers', '0', '--device', 'cpu', '--out', out, '--cfg-options', *data]
    usual = ['--batch', '2', '--crop', '56', '--iters', '6', '--pictures', '1']
    return parser.parse_args([str(w) for w in (encoder, *usual, *fixed, *words)])


def run(*args):
    """The exit status and the run."""
    job = SegmentRun(segment_args(*args))
    return job.run(), job


def trained(folder, step=6):
    """Weights of all probes in a run's state."""
    return dict(open_folder(folder / f'iter_{step}').tensors('model'))
