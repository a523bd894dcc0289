"""``rayvldd experts list``, ``show``, ``verify``, ``prune`` and ``copy``, and the functions behind them."""

import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cli import last_object, run
from helpers.expert_sets import METRICS, OTHER, assert_same, expert

import rayvldd.experts.store.copying
from rayvldd.cli.experts import SUBCOMMANDS
from rayvldd.cli.invocation import EXIT_FOUND, EXIT_USER_ERROR
from rayvldd.errors import InputError, StoreError
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store import pruning
from rayvldd.experts.store.copying import copy_sets
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.store.inspection import Damage, drop, summaries, verify
from rayvldd.experts.store.pruning import Pruning
from rayvldd.experts.training import ExpertState
from rayvldd.experts.trajectory_file import write_tensors
from rayvldd.records.json_values import JsonValue
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.lease import LeaseHolder, LeaseState
from rayvldd.storage.storage import Storage

MODEL: dict[str, JsonValue] = {"protocol": "heads_only", "image_encoder": {"name": "convnet_d3"}}
RECIPE = ExpertRecipe({"model": MODEL, "experts": {"epochs": 2}, "seed": 7})
DELTAS = ExpertRecipe({"model": MODEL, "experts": {"epochs": 2, "storage": "float16_deltas"}, "seed": 7})


@pytest.fixture
def store(tmp_path: Path) -> ExpertStore:
    """Two sets of two experts, the second with a start that they share."""
    store = ExpertStore(FolderStorage(tmp_path / "sets"))
    for recipe in (RECIPE, DELTAS):
        for index in range(2):
            store.save(recipe, index, expert(index))
    return store


def folder_of(store: ExpertStore, recipe: ExpertRecipe) -> Path:
    assert isinstance(store.storage, FolderStorage)
    return store.storage.folder / recipe.key


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def start_training(store: ExpertStore, index: int, recipe: ExpertRecipe = RECIPE) -> None:
    for epoch in range(2):
        state = ExpertState(epoch, expert().trajectory[epoch], METRICS[:epoch], {})
        store.keep_epoch(recipe, index, state, keep={0, 1})


def put_claim(store: ExpertStore, index: int, **values: Any) -> str:
    """A lease of a process on another machine, which cannot be checked immediately."""
    state = LeaseState(**{"owner": "other", "machine": "elsewhere", "process": 1, "beat": 3, "done": 1, **values})
    name = f"{RECIPE.key}/leases/expert_{index:03d}.json"
    store.storage.write(name, state.as_bytes())
    return name


def all_files(store: ExpertStore) -> dict[str, bytes | None]:
    return {name: store.storage.read(name) for name in store.storage.names()}


# --- in every storage -------------------------------------------------------------------------------------------------


def test_every_place_is_verified_pruned_and_copied_alike(
    storage: Storage, store: ExpertStore, tmp_path: Path, impatient: None
) -> None:
    there = ExpertStore(storage)
    assert copy_sets(store, there).copied == 4
    assert copy_sets(store, there).there == 4
    assert verify(there) == []
    assert [known.num_bytes for known in summaries(there)] == [known.num_bytes for known in summaries(store)]
    start_training(there, 2)
    put_claim(there, 2)
    look = Pruning(there)
    (found,) = look.find()
    assert found.index == 2 and len(found.names) == 3
    assert look.remove(found)
    assert look.find() == []
    back = ExpertStore(FolderStorage(tmp_path / "back"))
    assert copy_sets(there, back).copied == 4
    for recipe in (RECIPE, DELTAS):
        for index in range(2):
            assert_same(back.load(recipe, index), store.load(recipe, index))
    assert drop(there, [Damage(f"{RECIPE.key}/expert_000.safetensors", "", (f"{RECIPE.key}/expert_000.json",))]) == 1
    assert there.finished(RECIPE) == [1]


# --- the words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", SUBCOMMANDS)
def test_help_ends_with_examples_that_parse(word: str) -> None:
    shown = run("experts", word, "--help").output
    assert shown.startswith(f"Usage: rayvldd experts {word} ")
    assert word in run("experts", "--help").output
    assert SUBCOMMANDS[word].examples
    for example in SUBCOMMANDS[word].examples:
        assert example in shown
        program, command, first, *arguments = shlex.split(example)
        assert (program, command, first) == ("rayvldd", "experts", word)
        SUBCOMMANDS[word].make_context(word, arguments)


def test_a_word_nearly_right_is_no_study() -> None:
    result = run("experts", "verfy")
    assert result.exit_code == EXIT_USER_ERROR
    assert "neither a study file nor one of" in result.stderr and "did you mean 'verify'?" in result.stderr
    assert "no such study file" in run("experts", "verify.yaml").stderr


@pytest.mark.parametrize("word", ["show", "verify", "copy"])
def test_an_unknown_key_names_the_nearest(store: ExpertStore, tmp_path: Path, word: str) -> None:
    wrong = RECIPE.key[:-1] + "x"
    arguments: dict[str, list[str | Path]] = {
        "show": [wrong, "--store", store.uri],
        "verify": [wrong, "--store", store.uri],
        "copy": [store.uri, tmp_path / "copy", "--key", wrong],
    }
    result = run("experts", word, *arguments[word])
    assert result.exit_code == EXIT_USER_ERROR
    assert f"has no set {wrong!r} (did you mean {RECIPE.key!r}?)" in result.stderr
    assert f"Next: rayvldd experts list --store {store.uri}" in result.stderr


# --- list and show --------------------------------------------------------------------------------------------------


def test_list_shows_the_content_of_a_store(store: ExpertStore) -> None:
    start_training(store, 2)
    put_claim(store, 3, done=5, process=42)
    result = run("experts", "list", "--store", store.uri, "--json")
    assert result.exit_code == 0, result.output
    sets = {known["key"]: known for known in last_object(result)["sets"]}
    assert set(sets) == {RECIPE.key, DELTAS.key}
    known = sets[RECIPE.key]
    assert (known["protocol"], known["encoder"], known["epochs"], known["complete"]) == (
        "heads_only",
        "convnet_d3",
        2,
        2,
    )
    assert (known["val_mean_recall"], known["storage"], known["fault"]) == (10.0, "float32", "")
    assert known["in_training"] == [
        {"expert": 2, "epoch": 1, "holder": None},
        {"expert": 3, "epoch": 5, "holder": "process 42 on elsewhere"},
    ]
    files = folder_of(store, RECIPE).rglob("*.safetensors")
    assert known["bytes"] == sum(file.stat().st_size for file in files)
    assert sets[DELTAS.key]["storage"] == "float16_deltas"
    for text in (RECIPE.key, "heads_only", "#2 epoch 1, not leased", "#3 epoch 5, process 42 on elsewhere"):
        assert text in result.stderr


def test_list_shows_sets_that_cannot_be_used(store: ExpertStore) -> None:
    (folder_of(store, RECIPE) / "manifest.json").write_text("{")
    folder_of(store, DELTAS).rename(folder_of(store, OTHER))
    faults = {known.key: known.fault for known in summaries(store)}
    assert "cannot be read" in faults[RECIPE.key]
    assert faults[OTHER.key] == f"it was made as {DELTAS.key} and moved here"
    assert "moved here" in run("experts", "list", "--store", store.uri).output


def test_list_of_nothing(tmp_path: Path) -> None:
    result = run("experts", "list", "--workspace", tmp_path / "workspace")
    assert result.exit_code == 0
    assert "No expert sets in" in result.output
    assert not (tmp_path / "workspace").exists()


def test_a_set_before_its_first_expert_is_finished(tmp_path: Path) -> None:
    store = ExpertStore(FolderStorage(tmp_path))
    start_training(store, 0)
    (known,) = summaries(store)
    assert (known.fault, known.records, known.in_training[0].epoch) == ("", {}, 1)
    assert "in training: #0 epoch 1, not leased" in run("experts", "show", RECIPE.key, "--store", tmp_path).output


def test_show_prints_the_origin_of_a_set(store: ExpertStore) -> None:
    result = run("experts", "show", DELTAS.key, "--store", store.uri, "--checksums")
    assert result.exit_code == 0, result.output
    record = json.loads((folder_of(store, DELTAS) / "expert_001.json").read_text())
    for text in (
        "image side: 5 numbers in 2 parameters",
        "text side: 3 numbers in 1 parameters",
        "kept as float16_deltas",
        "seed: 7",
        "10.00 (10.00 to 10.00)",
        record["checksums"]["text.2"],
        record["start"]["checksums"]["start"],
    ):
        assert text in result.output
    values = last_object(run("experts", "show", DELTAS.key, "--store", store.uri, "--json"))
    assert values["records"]["1"] == record
    assert values["manifest"]["recipe"] == DELTAS.settings


# --- verify ---------------------------------------------------------------------------------------------------------


def test_verify_reads_everything_and_finds_nothing(store: ExpertStore) -> None:
    result = run("experts", "verify", "--store", store.uri, "--json")
    assert result.exit_code == 0, result.output
    assert last_object(result) == {"store": store.uri, "files": 5, "damaged": [], "dropped_experts": 0}


def test_verify_names_damaged_files_and_drops_them_on_request(store: ExpertStore) -> None:
    flip_last_byte(folder_of(store, RECIPE) / "expert_001.safetensors")
    before = all_files(store)
    result = run("experts", "verify", RECIPE.key, "--store", store.uri, "--json")
    assert result.exit_code == EXIT_FOUND
    (damage,) = last_object(result)["damaged"]
    assert damage["name"] == f"{RECIPE.key}/expert_001.safetensors"
    assert "checksum of" in damage["why"] and "is not the recorded one" in damage["why"]
    assert all_files(store) == before, "without --drop nothing is changed"
    assert run("experts", "verify", DELTAS.key, "--store", store.uri).exit_code == 0
    assert run("experts", "verify", "--store", store.uri, "--drop").exit_code == EXIT_FOUND
    assert store.finished(RECIPE) == [0]
    assert run("experts", "verify", "--store", store.uri).exit_code == 0


def test_a_damaged_start_is_the_damage_of_all_that_share_it(store: ExpertStore) -> None:
    (start,) = folder_of(store, DELTAS).glob("start_*")
    flip_last_byte(start)
    (damage,) = verify(store)
    assert damage.name == f"{DELTAS.key}/{start.name}" and len(damage.records) == 2
    assert drop(store, [damage]) == 2
    assert store.finished(DELTAS) == [] and not start.exists()
    for index in range(2):
        store.save(DELTAS, index, expert(index))
    assert verify(store) == []


@pytest.mark.parametrize("damage", ["cut off", "missing", "record", "header"])
def test_verify_finds_other_damage(store: ExpertStore, damage: str) -> None:
    data = folder_of(store, RECIPE) / "expert_000.safetensors"
    if damage == "cut off":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "missing":
        data.unlink()
    elif damage == "record":
        data = data.with_suffix(".json")
        data.write_text("{")
    else:
        content = bytearray(data.read_bytes())
        content[8] ^= 1
        data.write_bytes(content)
    damages = verify(store)
    assert [found.name for found in damages] == [f"{RECIPE.key}/{data.name}"]
    drop(store, damages)
    assert verify(store) == [] and store.finished(RECIPE) == [1]


# --- prune ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases count as dead after a fraction of a second."""
    for module in ("rayvldd.storage.lease", "rayvldd.experts.store.pruning"):
        monkeypatch.setattr(f"{module}.STALE_S", 0.2)
    monkeypatch.setattr(pruning, "_LOOK_S", 0.02)


def test_prune_deletes_only_leftovers(store: ExpertStore, impatient: None) -> None:
    finished = all_files(store)
    start_training(store, 2)
    put_claim(store, 2)
    store.storage.write(f"{RECIPE.key}/expert_007.safetensors", b"of a writer that died before its record")
    store.storage.write(f"{DELTAS.key}/start_0123456789abcdef.safetensors", b"of an expert that was dropped")
    store.storage.write("somebody/else.json", b"{}")
    part = folder_of(store, RECIPE) / ".expert_008.0123abcd.part"
    young = part.with_name(".expert_009.0123abcd.part")
    foreign = part.with_name(".mine.partial")
    for file in (part, young, foreign):
        file.write_bytes(b"half")
    for file in (part, foreign):
        os.utime(file, (time.time() - 7200,) * 2)
    before = all_files(store)

    listed = last_object(run("experts", "prune", "--store", store.uri, "--dry-run", "--json"))
    assert len(listed["left_over"]) == 4 and listed["removed"] == 0
    assert all_files(store) == before and part.exists()
    refused = run("experts", "prune", "--store", store.uri)  # there is no terminal for the prompt
    assert refused.exit_code == 1 and "Delete these" in refused.stderr
    assert all_files(store) == before and part.exists()
    assert last_object(run("experts", "prune", "--store", store.uri, "--yes", "--json"))["removed"] == 4
    assert all_files(store) == {**finished, "somebody/else.json": b"{}"}
    assert not part.exists() and young.exists() and foreign.exists()
    assert "Nothing to delete" in run("experts", "prune", "--store", store.uri, "--yes").output


def test_prune_touches_nothing_of_a_living_claim(store: ExpertStore, impatient: None) -> None:
    start_training(store, 2)
    start_training(store, 3)
    store.storage.write(f"{RECIPE.key}/start_0123456789abcdef.safetensors", b"its expert is being saved")
    lease = store.acquire(RECIPE, 2, LeaseHolder("alive"))
    assert lease is not None
    with lease:
        looks = []

        def beat(*_: object) -> None:
            looks.append(1)
            lease.report_progress(len(looks))

        (found,) = Pruning(store).find(on_wait=beat)
        assert found.index == 3
        unreadable = folder_of(store, RECIPE) / "manifest.json"
        content = unreadable.read_bytes()
        unreadable.write_text("{")
        assert Pruning(store).find(unreadable=True, on_wait=beat) == []
        unreadable.write_bytes(content)
    assert [found.index for found in Pruning(store).find()] == [2, 3, None]


def test_a_stale_lease_is_found_however_slow_the_storage(
    store: ExpertStore, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_training(store, 2)
    put_claim(store, 2)
    read = store.storage.read

    def read_slowly(name: str) -> bytes | None:
        if "/leases/" in name:
            time.sleep(0.3)  # longer than the time after which a lease is stale
        return read(name)

    monkeypatch.setattr(store.storage, "read", read_slowly)
    (found,) = Pruning(store).find()
    assert found.index == 2


def test_a_claim_taken_since_the_look_is_left_alone(store: ExpertStore, impatient: None) -> None:
    start_training(store, 2)
    look = Pruning(store)
    (found,) = look.find()
    with store.acquire(RECIPE, 2, LeaseHolder("quicker")):  # type: ignore[union-attr]
        assert not look.remove(found)
        assert len(store.kept_epochs(RECIPE, 2)) == 2
    assert look.remove(found)
    assert store.kept_epochs(RECIPE, 2) == [] and store.holder(RECIPE, 2) is None


def test_prune_of_sets_without_a_readable_manifest(store: ExpertStore, impatient: None) -> None:
    (folder_of(store, RECIPE) / "manifest.json").write_text("{")
    newer = folder_of(store, DELTAS) / "manifest.json"
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "format": 3}))
    note = folder_of(store, RECIPE) / "notes.txt"
    note.write_text("mine")
    (folder_of(store, DELTAS) / "expert_001.json").unlink()
    before = all_files(store)
    assert last_object(run("experts", "prune", "--store", store.uri, "--yes", "--json"))["left_over"] == []
    assert run("experts", "verify", "--store", store.uri).exit_code == EXIT_FOUND
    assert all_files(store) == before
    assert run("experts", "prune", "--store", store.uri, "--yes", "--unreadable").exit_code == 0
    left = {name for name in before if name.startswith(DELTAS.key)}
    assert set(all_files(store)) == {*left, f"{RECIPE.key}/notes.txt"}, "a newer version's set is not ours to judge"


# --- copy -----------------------------------------------------------------------------------------------------------


def test_copy_copies_complete_sets_and_skips_existing_ones(store: ExpertStore, tmp_path: Path) -> None:
    there = ExpertStore(FolderStorage(tmp_path / "copy"))
    first = run("experts", "copy", store.uri, there.uri, "--key", DELTAS.key, "--json")
    assert first.exit_code == 0, first.output
    assert last_object(first)["copied"] == 2
    assert there.finished(RECIPE) == [] and there.finished(DELTAS) == [0, 1]
    again = last_object(run("experts", "copy", store.uri, tmp_path / "copy", "--json"))
    assert (again["copied"], again["there"]) == (2, 2)
    assert verify(there) == []
    for recipe in (RECIPE, DELTAS):
        for index in range(2):
            assert_same(there.load(recipe, index), store.load(recipe, index))
            assert there.record(recipe, index) == store.record(recipe, index)


def test_copy_does_nothing_when_it_is_tried(store: ExpertStore, tmp_path: Path) -> None:
    result = run("experts", "copy", store.uri, tmp_path / "copy", "--dry-run", "--json")
    assert last_object(result)["keys"] == sorted([RECIPE.key, DELTAS.key])
    assert not (tmp_path / "copy").exists()
    same = run("experts", "copy", store.uri, store.uri)
    assert same.exit_code == EXIT_USER_ERROR and "which is SRC; allowed: another store" in same.stderr


def test_a_damaged_expert_is_not_copied_and_the_others_are(store: ExpertStore, tmp_path: Path) -> None:
    flip_last_byte(folder_of(store, RECIPE) / "expert_000.safetensors")
    result = run("experts", "copy", store.uri, tmp_path / "copy", "--json")
    assert result.exit_code == EXIT_FOUND
    copied = last_object(result)
    assert copied["copied"] == 3 and len(copied["faults"]) == 1
    assert f"{RECIPE.key}/expert_000.safetensors: the checksum of" in copied["faults"][0]
    there = ExpertStore(FolderStorage(tmp_path / "copy"))
    assert there.finished(RECIPE) == [1] and there.finished(DELTAS) == [0, 1]


def test_copy_resumes_after_an_interruption(
    store: ExpertStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def interrupted(path: Path, *values: Any) -> Any:
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        return write_tensors(path, *values)

    monkeypatch.setattr(rayvldd.experts.store.copying, "write_tensors", interrupted)
    there = ExpertStore(FolderStorage(tmp_path / "copy"))
    result = run("experts", "copy", store.uri, there.uri)
    assert result.exit_code == 128 + signal.SIGINT
    assert "Kept: every expert that was copied" in result.stderr
    assert f"The same command continues: rayvldd experts copy {store.uri} {there.uri}" in result.stderr
    num_there = len(there.finished(RECIPE)) + len(there.finished(DELTAS))
    assert num_there in (1, 2) and verify(there) == []
    assert Pruning(there).find() == [], "no lease and no part is left"
    result = run("experts", "copy", store.uri, there.uri, "--json")
    assert last_object(result)["there"] == num_there
    assert there.finished(RECIPE) == there.finished(DELTAS) == [0, 1]


def test_copy_skips_an_expert_in_training_at_the_destination(store: ExpertStore, tmp_path: Path) -> None:
    there = ExpertStore(FolderStorage(tmp_path / "copy"))
    with there.acquire(RECIPE, 0, LeaseHolder("another command")):  # type: ignore[union-attr]
        copied = copy_sets(store, there, [RECIPE.key])
    assert (copied.copied, copied.held) == (1, [f"{RECIPE.key}/expert_000.safetensors"])
    assert copy_sets(store, there, [RECIPE.key]).copied == 1


def test_copy_and_epochs_left_out(store: ExpertStore, tmp_path: Path) -> None:
    there = ExpertStore(FolderStorage(tmp_path / "copy"))
    there.save(RECIPE, 0, expert(0, epochs=(0, 2)))
    assert copy_sets(store, there, [RECIPE.key]).copied == 2, "more epochs take the storage of fewer"
    assert_same(there.load(RECIPE, 0), expert(0).trajectory)
    fewer, other = (ExpertStore(FolderStorage(tmp_path / name)) for name in ("fewer", "other"))
    fewer.save(RECIPE, 0, expert(0, epochs=(0, 2)))
    assert copy_sets(fewer, there).there == 1
    other.save(RECIPE, 0, expert(0, epochs=(0, 1)))
    (fault,) = copy_sets(fewer, other).faults
    assert "SRC keeps epochs 0, 2, DST 0, 1: neither has all" in fault


def test_copy_never_mixes_experts_of_different_recipes(store: ExpertStore, tmp_path: Path) -> None:
    there = ExpertStore(FolderStorage(tmp_path / "copy"))
    there.save(OTHER, 0, expert())
    folder_of(there, OTHER).rename(folder_of(there, RECIPE))
    before = all_files(there)
    with pytest.raises(StoreError, match="made for other settings"):
        copy_sets(store, there)
    assert all_files(there) == before


def test_a_file_that_is_not_written_as_it_was_read_does_not_count(
    store: ExpertStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_wrong(path: Path, tensors: Any, metadata: Any) -> Any:
        return write_tensors(path, {name: value + torch.ones_like(value) for name, value in tensors.items()}, metadata)

    monkeypatch.setattr(rayvldd.experts.store.copying, "write_tensors", write_wrong)
    there = ExpertStore(FolderStorage(tmp_path / "copy"))
    with pytest.raises(StoreError, match="was not written as it was read"):
        copy_sets(store, there, [RECIPE.key])
    assert there.finished(RECIPE) == []
    with pytest.raises(InputError, match="has no set"):
        copy_sets(there, store, ["0" * 16])
