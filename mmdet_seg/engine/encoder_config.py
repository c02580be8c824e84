"""Where an encoder stands in a model's config."""

from typing import Any


def encoder_config(model: dict[str, Any]) -> dict[str, Any]:
    """The config of the InternViT: ``backbone``, or the ``encoder`` of a ViT-Adapter there.

    Args:
        model: Config of a segmentor or detector.

    Returns:
        The config itself, to read and to change; empty where there is no backbone.
    """
    backbone = model.get('backbone') or {}
    return backbone.get('encoder') or backbone
