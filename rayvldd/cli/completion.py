"""Words for the completion of the shell: studies of the workspace, shipped studies, and keys of settings."""

import os
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from rayvldd.user_paths import user_path

_DEFAULT_WORKSPACE = Path("rayvldd_workspace")


def study_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of shipped studies, and files."""
    return [*shipped_studies(incomplete), CompletionItem(incomplete, type="file")]


def shipped_studies(incomplete: str) -> list[CompletionItem]:
    """Names of shipped studies."""
    from rayvldd.config.shipped_spaces import purpose_of, shipped_spaces

    found = [CompletionItem(name, help=purpose_of(file)) for name, file in shipped_spaces().items()]
    return [item for item in found if item.value.startswith(incomplete)]


def study_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the studies of the workspace."""
    given = ctx.params.get("workspace_folder") or os.environ.get("RAYVLDD_WORKSPACE") or _DEFAULT_WORKSPACE
    folder = user_path(given) / "studies"
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith(incomplete))
    except OSError:  # no workspace yet
        return []


def settings(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Keys of settings for ``KEY=VALUE``, section by section."""
    return sorted(set(_next_parts(incomplete)))


def _next_parts(incomplete: str) -> Iterator[str]:
    """The keys that begin with a text, up to the next dot: a study has hundreds of them."""
    from rayvldd.config.study import all_settings

    for key in all_settings():
        if key.startswith(incomplete):
            part, dot, _ = key[len(incomplete) :].partition(".")
            yield incomplete + part + (dot or "=")
