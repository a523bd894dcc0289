"""Shared parts of the benchmarks: choice of figures, a table for people, one object for programs."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

import torch

from rayvldd.runtime.machine import processor_name

Conditions = TypeVar("Conditions")


@dataclass(frozen=True)
class Row:
    """One measured figure."""

    name: str
    what: str
    value: float | None
    """None: did not fit in memory or in the time given."""
    to_reach: float | None = None
    """Largest acceptable value, if there is one."""
    at_least: bool = False
    """``to_reach`` is the smallest acceptable value."""

    @property
    def met(self) -> bool | None:
        """Whether the value is acceptable; None without a limit."""
        if self.to_reach is None or self.value is None:
            return None if self.to_reach is None else False
        return self.value >= self.to_reach if self.at_least else self.value <= self.to_reach


def named(*figures: Callable[[Conditions], Iterator[Row]]) -> dict[str, Callable[[Conditions], Iterator[Row]]]:
    """Figures by the names of their functions, which are those of the command line."""
    return {figure.__name__: figure for figure in figures}


def measured(
    figures: Mapping[str, Callable[[Conditions], Iterator[Row]]], names: Iterable[str], conditions: Conditions
) -> Iterator[Row]:
    """The rows of the requested figures, in order."""
    for name in names:
        yield from figures[name](conditions)


def figures_parser(description: str | None, names: Iterable[str]) -> argparse.ArgumentParser:
    """A command line with the options of every benchmark: which figures, a tiny run, JSON."""
    known = list(names)

    def chosen(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"no figure is called {sorted(unknown)}; there are {', '.join(known)}")
        return text.split(",")

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=chosen, default=known, help="names of figures, with commas between")
    parser.add_argument("--tiny", action="store_true", help="on few numbers, to test the script")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to standard error")
    return parser


def print_rows(rows: Iterable[Row], to: TextIO) -> list[Row]:
    """Print each as soon as it is measured."""
    print(f"{'name':38} {'value':>11} {'to reach':>9}  {'met':3}  what", file=to, flush=True)
    printed = []
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.3g}"
        to_reach = "" if row.to_reach is None else f"{row.to_reach:.3g}"
        met = {True: "yes", False: "NO", None: ""}[row.met]
        print(f"{row.name:38} {value:>11} {to_reach:>9}  {met:3}  {row.what}", file=to, flush=True)
        printed.append(row)
    return printed


def print_figures(rows: Iterable[Row], device: str = "cpu", *, as_object: bool) -> None:
    """Print the rows of a script and, with ``--json``, one object; the rows then go to standard error.

    Args:
        rows: The rows.
        device: The device on which they are measured.
        as_object: Whether ``--json`` was given.
    """
    printed = print_rows(rows, sys.stderr if as_object else sys.stdout)
    if as_object:
        print(as_json(printed, device))


def as_json(rows: list[Row], device: str) -> str:
    """Machine and figures as one line."""
    return json.dumps({"machine": machine(device), "figures": {row.name: row.value for row in rows}})


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32 if device == "cuda" else None,
    }
