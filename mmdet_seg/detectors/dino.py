"""mmdet's DINO, which says what an image that is too small for its queries lacks.

Shapes: B images, T positions of all maps together, D channels.
"""

from typing import Any

from torch import Tensor

from mmdet_seg.mmdet_door import DINO
from mmdet_seg.registry import MODELS


@MODELS.register_module()
class CheckedDINO(DINO):
    """DINO, whose queries start at the positions of the maps that look most like objects."""

    def pre_decoder(
        self,
        memory: Tensor,
        memory_mask: Tensor,
        spatial_shapes: Tensor,
        batch_data_samples: list,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Choose where the queries start.

        Args:
            memory: (B, T, D).
            memory_mask: (B, T), true on padding.
            spatial_shapes: Height and width of each map.
            batch_data_samples: mmdet's.

        Returns:
            Arguments of the decoder and of the head.

        Raises:
            ValueError: T is below the number of queries.
        """
        positions = memory.shape[1]
        if positions < self.num_queries:
            height, width = batch_data_samples[0].batch_input_shape
            raise ValueError(
                f'model.num_queries={self.num_queries}: an image of {height} x {width} has '
                f'{positions} positions, and each query starts at one of its own. Enlarge the '
                f'images, or set model.num_queries to {positions} or less before training.'
            )
        return super().pre_decoder(memory, memory_mask, spatial_shapes, batch_data_samples)
