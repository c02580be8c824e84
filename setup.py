"""Packaging: ranges and extras. Pinned, tested versions are in ``constraints.txt``."""

import re
import sys
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'mmdet_seg/version.py').read_text())[1]
README = HERE / 'README.md'
# The command lines travel with the wheel (python -m mmdet_seg.tools.train CONFIG). A checkout has
# them in tools/, and setuptools warns about an editable package outside its parent.
TOOLS = {} if 'editable_wheel' in sys.argv else {'mmdet_seg.tools': 'tools'}

setup(
    name='mmdet_seg',
    version=VERSION,
    description='InternViT for dense prediction on OpenMMLab: segmentation, detection, probing',
    long_description=README.read_text() if README.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=[
        *find_packages(include=['mmdet_seg', 'mmdet_seg.*']),
        *find_namespace_packages(include=['mmdet_seg.configs', 'mmdet_seg.configs.*']),
        *TOOLS,
    ],
    package_dir=TOOLS,
    package_data={'mmdet_seg.configs': ['*.md']},
    install_requires=[
        'torch>=2.7',
        'torchvision>=0.22',
        'mmengine>=0.10.7,<0.12',
        'mmcv-lite>=2.0.0rc4,<2.2',
        'mmsegmentation>=1.2.2,<1.3',
        'numpy>=1.26,<2.4',
        'pillow>=10,<13',
        'safetensors>=0.4.3',
        'huggingface_hub>=0.23',
        'matplotlib>=3.7',
        'rich>=13',
        'pycocotools>=2.0.7',
        'ftfy',  # mmsegmentation imports both without asking for them
        'regex',
    ],
    extras_require={
        'det': ['mmdet>=3.3,<3.4'],
        'flash': ['flash-attn>=2.5'],
        'lora': ['peft>=0.15'],
        'deepspeed': ['deepspeed>=0.16'],
        'tensorboard': ['tensorboard>=2.14'],
        'probe': ['scikit-learn>=1.5', 'faiss-cpu>=1.9'],
        'quantize': ['torchao>=0.14'],
        'peers': ['timm>=1.0.15', 'transformers>=5.0'],
        'export': ['onnx>=1.17', 'onnxscript>=0.5', 'onnxruntime>=1.20'],
        'dev': [
            'mmdet>=3.3,<3.4',
            'deepspeed>=0.16',
            'tensorboard>=2.14',
            'peft>=0.15',
            'timm>=1.0.15',
            'transformers>=5.0',
            'onnx>=1.17',
            'onnxscript>=0.5',
            'onnxruntime>=1.20',
            'scikit-learn>=1.5',
            'faiss-cpu>=1.9',
            'torchao>=0.14',
            'pytest>=8',
            'pytest-xdist>=3.6',
            'ruff==0.17.6',
        ],
    },
)
