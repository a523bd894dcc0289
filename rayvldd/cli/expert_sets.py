"""``rayvldd experts list``, ``show``, ``verify``, ``prune`` and ``copy``: management of expert sets in a store."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import click

from rayvldd.cli.invocation import EXIT_FOUND, Invocation, RunCommand
from rayvldd.cli.preparation import reachable, store_option

if TYPE_CHECKING:
    from rayvldd.experts.store.expert_records import ExpertRecords
    from rayvldd.experts.store.inspection import SetSummary
    from rayvldd.records.json_values import JsonObject


@contextmanager
def _opened(invocation: Invocation, uri: str | None) -> Iterator["ExpertRecords"]:
    """The records of the store at an address; a terminal is told what is read, unless it is on a disk."""
    from rayvldd.experts.store.addresses import open_records
    from rayvldd.storage.folder import FolderStorage
    from rayvldd.workspace import Workspace

    store = open_records(uri, Workspace(invocation.workspace_folder))
    if not isinstance(store.storage, FolderStorage):
        invocation.say_waiting(f"reading {store.uri}")
    with reachable(store):
        yield store


@contextmanager
def _progress(invocation: Invocation, what: str) -> Iterator[Callable[[int, int, str], None]]:
    with invocation.display() as display:
        yield lambda done, total, note: display.progress(what, done, total, note)


@click.command(
    "list",
    cls=RunCommand,
    takes_settings=False,
    only_reads=True,
    examples=["rayvldd experts list", "rayvldd experts list --store s3://bucket/experts --json"],
)
@store_option
@click.pass_obj
def list_command(invocation: Invocation, store_uri: str | None) -> None:
    """List the expert sets of a store, one row per set.

    A set is identified by its key, a hash of all settings that determine its trajectories. Experts in training are
    shown with their last finished epoch and the process that trains them.
    """
    from rayvldd.experts.store.inspection import summaries
    from rayvldd.reports.expert_tables import ListedSets, sets_table, values_of_set

    with _opened(invocation, store_uri) as store, invocation.waiting("reading the sets"):
        found = summaries(store)
    if found:
        invocation.show(sets_table(found, store.uri))
    else:
        invocation.say(f"No expert sets in {store.uri}")
    invocation.finish(ListedSets(store=store.uri, sets=[values_of_set(known) for known in found]))


@click.command(
    "show",
    cls=RunCommand,
    takes_settings=False,
    only_reads=True,
    examples=["rayvldd experts show 0123456789abcdef", "rayvldd experts show 0123456789abcdef --checksums"],
)
@click.argument("key", metavar="KEY")
@click.option("--checksums", is_flag=True, help="Also list the checksum of every tensor; --json always has them.")
@store_option
@click.pass_obj
def show_command(invocation: Invocation, key: str, checksums: bool, store_uri: str | None) -> None:
    """Show the settings and experts of the set KEY.

    Settings, fingerprints of data and encoders, seed, number of parameters per side, experts, and metrics by epoch.
    """
    from rayvldd.experts.store.inspection import summary_of
    from rayvldd.reports.expert_tables import ShownSet, checksums_table, experts_table, values_of_set

    with _opened(invocation, store_uri) as store, invocation.waiting("reading the set"):
        known = summary_of(store, key)
    for line in _lines_about(known):
        invocation.say(line)
    invocation.say()
    invocation.show(experts_table(known))
    _show_metrics(invocation, known)
    if checksums:
        invocation.show(checksums_table(known))
    records = {str(index): cast("JsonObject", record) for index, record in known.records.items()}
    manifest = cast("JsonObject | None", known.manifest)
    invocation.finish(ShownSet(**dict(values_of_set(known)), store=store.uri, manifest=manifest, records=records))


def _lines_about(known: "SetSummary") -> Iterator[str]:
    import yaml

    from rayvldd.reports.expert_tables import size_as_text, training_as_text

    yield f"{known.key}  {len(known.records)} experts complete, {size_as_text(known.num_bytes)}"
    if known.fault:
        yield f"cannot be used: {known.fault}"
    for index in known.incomplete:
        yield f"expert {index} is damaged: its files are not as recorded"
    for found in known.in_training:
        yield f"in training: {training_as_text(found)}"
    if known.manifest is None:
        return
    yield f"made by rayvldd {known.manifest.get('rayvldd_version', 'of unknown version')}"
    for side, layout in known.manifest.get("layout", {}).items():
        numbers = sum(math.prod(shape) for _, shape in layout)
        yield f"{side} side: {numbers:,} numbers in {len(layout)} parameters"
    yield f"kept as {known.recipe.storage}"
    yield "made from:"
    yield yaml.safe_dump(known.recipe.settings, sort_keys=False, width=110).rstrip()


def _show_metrics(invocation: Invocation, known: "SetSummary") -> None:
    from rayvldd.reports.expert_tables import epochs_table

    if any(record["metrics"] for record in known.records.values()):
        invocation.show(epochs_table(known))
    elif known.records:
        invocation.say("Metrics by epoch are not known: the trajectories were imported.")


@click.command(
    "verify",
    cls=RunCommand,
    takes_settings=False,
    only_reads=True,
    examples=[
        "rayvldd experts verify",
        "rayvldd experts verify 0123456789abcdef --store s3://bucket/experts",
        "rayvldd experts verify --drop",
    ],
)
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--drop", "drops", is_flag=True, help="Delete the records of damaged experts, to make them again.")
@store_option
@click.pass_obj
def verify_command(invocation: Invocation, keys: tuple[str, ...], drops: bool, store_uri: str | None) -> None:
    """Read every tensor and compare it with its checksum.

    Checks the named sets, or all sets. If files are damaged, they are listed and the exit code is 1. Only --drop
    changes the store.
    """
    with invocation.waiting("loading PyTorch"):
        from rayvldd.experts.store.inspection import Verified, drop, verify
        from rayvldd.reports.expert_tables import damages_table

    files = 0
    with _opened(invocation, store_uri) as store, _progress(invocation, "verify") as show:

        def note(done: int, total: int, name: str) -> None:
            nonlocal files
            files = total
            show(done, total, name)

        damages = verify(store, keys, note)
        dropped = drop(store, damages) if drops else 0
    if damages:
        invocation.show(damages_table(damages))
    invocation.say(f"{files} files read in {store.uri}, {len(damages)} damaged" + (", dropped" if dropped else ""))
    if damages and not drops:
        invocation.say_next("the same command with --drop, then rayvldd experts STUDY.yaml, which makes them again")
    if any(not damage.records for damage in damages):
        command = invocation.in_this_workspace("rayvldd experts prune --unreadable")
        invocation.say(f"Next, for sets without a readable manifest: {command}")
    invocation.finish(Verified(store=store.uri, files=files, damaged=damages, dropped_experts=dropped))
    if damages:
        raise SystemExit(EXIT_FOUND)


@click.command(
    "prune",
    cls=RunCommand,
    takes_settings=False,
    kept="all experts; the remaining files can still be deleted",
    examples=[
        "rayvldd experts prune --dry-run",
        "rayvldd experts prune --yes",
        "rayvldd experts prune --unreadable --store s3://bucket/experts",
    ],
)
@click.option("--unreadable", is_flag=True, help="Also whole sets whose manifest cannot be read.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@click.pass_obj
def prune_command(invocation: Invocation, unreadable: bool, yes: bool, store_uri: str | None) -> None:
    """Delete the remains of killed commands.

    These are epochs of unfinished experts, expired leases, partial files, and initial parameters without experts. Files
    of running commands are kept; it takes half a minute to detect that a lease of another machine is expired.
    Interrupted experts will be trained from the beginning.
    """
    from rayvldd.experts.store.pruning import Pruned, Pruning
    from rayvldd.reports.expert_tables import leftovers_table, size_as_text

    with _opened(invocation, store_uri) as store:
        pruning = Pruning(store)
        with _progress(invocation, "watching leases") as show:
            found = pruning.find(
                unreadable=unreadable,
                on_wait=lambda leases, left: show(0, leases, f"{left:.0f} s left"),
            )
        result = Pruned(store=store.uri, left_over=found)
        if not found:
            invocation.say(f"Nothing to delete in {store.uri}")
            return invocation.finish(result)
        invocation.show(leftovers_table(found))
        if invocation.dry_run:
            return invocation.finish(result)
        size = size_as_text(sum(one.num_bytes for one in found))
        if not yes:
            click.confirm(f"Delete these, {size} in {store.uri}?", abort=True, err=True)
        removed = [pruning.remove(one) for one in found]
    invocation.say(f"{sum(removed)} of {len(found)} deleted")
    if not all(removed):
        invocation.say("The others are now in use by other commands.")
    invocation.finish(result.model_copy(update={"removed": sum(removed)}))


@click.command(
    "copy",
    cls=RunCommand,
    takes_settings=False,
    kept="every expert that was copied",
    examples=[
        "rayvldd experts copy rayvldd_workspace/experts s3://bucket/experts",
        "rayvldd experts copy s3://bucket/experts /data/experts --key 0123456789abcdef",
    ],
)
@click.argument("source_uri", metavar="SRC")
@click.argument("destination_uri", metavar="DST")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Copy this set only. May be repeated.")
@click.pass_obj
def copy_command(invocation: Invocation, source_uri: str, destination_uri: str, keys: tuple[str, ...]) -> None:
    """Copy complete experts from the store SRC to the store DST.

    An expert is complete at DST once all its checksums are verified there. Existing experts are skipped, so the same
    command resumes an interrupted copy. The exit code is 1 if an expert could not be copied.
    """
    with invocation.waiting("loading PyTorch"):
        from rayvldd.experts.store.copying import CopyOutput, PlannedCopy, copy_sets
        from rayvldd.experts.store.inspection import check_keys, summaries
        from rayvldd.reports.expert_tables import sets_table, size_as_text

    with _opened(invocation, source_uri) as source, _opened(invocation, destination_uri) as destination:
        if invocation.dry_run:
            check_keys(source, keys)
            chosen = [known for known in summaries(source) if not keys or known.key in keys]
            invocation.show(sets_table(chosen, source.uri))
            return invocation.finish(PlannedCopy(source=source.uri, keys=[known.key for known in chosen]))
        with _progress(invocation, "copy") as show:
            copied = copy_sets(source, destination, keys, show)
    invocation.say(
        f"{copied.copied} experts copied ({size_as_text(copied.num_bytes)}), {copied.there} were in {destination.uri}"
    )
    for name in copied.held:
        invocation.say(f"not copied: {name}: another command is making it there; repeat the command to check again")
    for fault in copied.faults:
        invocation.say(f"not copied: {fault}")
    invocation.finish(CopyOutput(source=source.uri, destination=destination.uri, **vars(copied)))
    if copied.held or copied.faults:
        raise SystemExit(EXIT_FOUND)


COMMANDS_ON_SETS: dict[str, RunCommand] = {
    "list": list_command,
    "show": show_command,
    "verify": verify_command,
    "prune": prune_command,
    "copy": copy_command,
}
"""Subcommands by the word in place of STUDY."""
