"""Registry of distillation methods: built-in ones, and those of other packages by entry point."""

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from rayvldd.config.methods.declaration import MethodDeclaration

GROUP = "rayvldd.distillation_methods"
"""Entry points of this group name :class:`MethodDeclaration` objects."""

_BUILT_IN = {
    "trajectory_matching": "rayvldd.config.methods.trajectory_matching:DECLARATION",
    "expert_fit": "rayvldd.config.methods.expert_fit:DECLARATION",
    "covariance": "rayvldd.config.methods.covariance:DECLARATION",
    "meta_model": "rayvldd.config.methods.meta_model:DECLARATION",
}

_registered: dict[str, MethodDeclaration] = {}


def register_method(declaration: MethodDeclaration) -> None:
    """Add a method in this process only, for a notebook or a test; packages use an entry point.

    Trials run in other processes and do not have the method.
    """
    _registered[declaration.name] = declaration


def unregister_method(name: str) -> None:
    """Remove a method that :func:`register_method` added."""
    _registered.pop(name, None)


def method_names() -> list[str]:
    """The names of all methods, built-in ones first."""
    return list(dict.fromkeys([*_BUILT_IN, *_entry_points(), *_registered]))


def declaration_of(name: str) -> MethodDeclaration:
    """The declaration of a method.

    Raises:
        KeyError: if there is no method with this name.
    """
    if name in _registered:
        return _registered[name]
    return _loaded(name)


@cache
def _loaded(name: str) -> MethodDeclaration:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found = getattr(import_module(module), attribute)
    else:
        found = _entry_points()[name].load()
    if not isinstance(found, MethodDeclaration) or found.name != name:
        raise TypeError(f"the entry point {name!r} of {GROUP} is not a MethodDeclaration with that name: {found!r}")
    return found


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
