"""``--cfg-options KEY=VALUE ...`` of the command lines."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction


class CfgOptions(DictAction):
    """mmengine's ``DictAction``, which says what is no ``KEY=VALUE``."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> Any:
        for text in values:
            key, equals, _ = text.partition('=')
            if not equals or not all(key.split('.')):
                parser.error(
                    f'--cfg-options {text}: not KEY=VALUE, as model.backbone.drop_path_rate=0.2'
                )
        super().__call__(parser, namespace, values, option_string)
