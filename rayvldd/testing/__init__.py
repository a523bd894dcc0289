"""Contract tests for plug-ins, and the toy study that they use.

A plug-in's test file imports a contract and calls it::

    from rayvldd.testing import check_method

    def test_my_method(tmp_path):
        check_method("my_method", tmp_path)

Every function raises ``AssertionError`` with a message if the contract is violated.
"""

from typing import TYPE_CHECKING

from rayvldd.testing.toy import TOY_STUDY, toy_study, toy_task

if TYPE_CHECKING:
    from rayvldd.testing.methods import check_method as check_method
    from rayvldd.testing.metrics import check_metric as check_metric
    from rayvldd.testing.storages import check_storage as check_storage
    from rayvldd.testing.trackers import check_tracker as check_tracker

__all__ = ["TOY_STUDY", "check_method", "check_metric", "check_storage", "check_tracker", "toy_study", "toy_task"]

_WHERE = {
    "check_method": "methods",
    "check_metric": "metrics",
    "check_storage": "storages",
    "check_tracker": "trackers",
}


def __getattr__(name: str) -> object:
    """Load a contract on first access."""
    if name not in _WHERE:
        raise AttributeError(f"module 'rayvldd.testing' has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f"rayvldd.testing.{_WHERE[name]}"), name)
    return found
