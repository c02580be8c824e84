"""torchao 0.18 says on every import that PyTorch 2.14 will change how enums are registered.

Whoever imports transformers or peft imports it too, where it is installed. Nobody who runs a
command can do anything about it. Can be deleted with the next torchao.
"""

import logging


class _NotForUsers(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return 'register_constant() on Enum' not in record.getMessage()


_FILTER = _NotForUsers()


def leave_out() -> None:
    """Leave this one message out of PyTorch's log; a second call changes nothing."""
    logging.getLogger('torch.utils._pytree').addFilter(_FILTER)
