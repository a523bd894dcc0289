"""Resource requests of experts and trials on a single machine."""

import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from rayvldd.config.settings import ResourceSettings, actors_on_gpus
from rayvldd.config.study import Study
from rayvldd.experts.get_or_make import ExpertRequest
from rayvldd.experts.recipe import ExpertRecipe, expert_training
from rayvldd.models.device_options import DeviceOptions
from rayvldd.runtime import actor_pool, cluster, machine
from rayvldd.runtime import expert_training as expert_fleet
from rayvldd.runtime.actor_pool import ResourceRequest, _TaskSource, _Worker
from rayvldd.runtime.machine import describe_machine, faults_of_graphs, faults_of_resources
from rayvldd.runtime.resources import trials_at_a_time


@pytest.fixture(autouse=True)
def a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four CPUs and one GPU."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.mark.parametrize(
    ("who", "what", "has", "lacks", "gpus"),
    [
        ("expert", "cpus", 4, 5, 1),
        ("trial", "cpus", 4, 5, 1),
        ("expert", "gpus", 0.0, 0.5, 0),
        ("trial", "gpus", 1.0, 2.0, 1),
        ("trial", "gpus", 0.5, 2.0, 1),
    ],
)
def test_resources_of_the_machine_pass_and_more_do_not(
    monkeypatch: pytest.MonkeyPatch, who: str, what: str, has: float, lacks: float, gpus: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert faults_of_resources(ResourceSettings.model_validate({f"{what}_per_{who}": has})) == []
    (fault,) = faults_of_resources(ResourceSettings.model_validate({f"{what}_per_{who}": lacks}))
    assert fault.where == f"resources.{what}_per_{who}" and f"requests {lacks:g}" in fault.problem
    here = 4 if what == "cpus" else gpus
    assert f"at most the {here} of this machine" in fault.allowed and "--address" in fault.allowed


@pytest.mark.parametrize(("gpus", "stated", "faults"), [(0, None, 1), (1, None, 0), (0, 0.5, 0), (1, 1, 0)])
def test_cuda_graphs_need_a_gpu_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, tiny_study: Study, gpus: int, stated: float | None, faults: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert faults_of_graphs(tiny_study) == []
    study = tiny_study.at({"distillation.engine.compile": "cuda_graphs", "resources.gpus_per_trial": stated})
    training = tiny_study.at({"resources.cuda_graphs": True, "resources.gpus_per_trial": stated})
    assert [fault.where for fault in faults_of_graphs(training)] == ["resources.cuda_graphs"] * faults
    found = faults_of_graphs(study)
    assert len(found) == faults, "a stated GPU that is not there is a fault of the resources"
    if found:
        assert found[0].where == "distillation.engine.compile"
        assert "--set distillation.engine.compile=true" in found[0].allowed and "--address" in found[0].allowed


def test_an_expert_leaves_no_gpu_idle() -> None:
    assert ResourceSettings(gpus_per_expert=1).gpus_per_expert == 1
    with pytest.raises(ValueError, match=r"gpus_per_expert\n.*less than or equal to 1"):
        ResourceSettings(gpus_per_expert=2)


def test_all_faults_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    requested: dict[str, Any] = {
        "cpus_per_trial": 9,
        "gpus_per_trial": 3,
        "gpus_per_expert": 1,
        "custom_per_expert": {"spot": 1},
    }
    assert [
        fault.where.partition(".")[2] for fault in faults_of_resources(ResourceSettings.model_validate(requested))
    ] == [
        "gpus_per_expert",
        "cpus_per_trial",
        "gpus_per_trial",
        "custom_per_expert",
    ]


@pytest.mark.parametrize(
    ("gpus", "at_a_time", "share"),
    [(0, 2, 0), (1, 1, 1), (1, 2, 0.5), (1, 3, 0.3333), (2, 3, 0.5), (2, 5, 0.3333), (8, 2, 1), (0.5, 2, 0)],
)
def test_gpus_are_shared_by_as_many_as_run_at_a_time(gpus: float, at_a_time: int, share: float) -> None:
    for resources in (ResourceSettings(), ResourceSettings.model_validate("auto")):
        assert resources.gpus_of("trial", gpus, at_a_time) == resources.gpus_of("expert", gpus, at_a_time) == share
    if share:
        request = ResourceRequest(1, share, "resources.cpus_per_trial")
        assert request.actors_that_fit({"CPU": 64, "GPU": gpus}) >= at_a_time
    stated = ResourceSettings(gpus_per_trial=0.25, gpus_per_expert=0)
    assert (stated.gpus_of("trial", gpus, at_a_time), stated.gpus_of("expert", gpus, at_a_time)) == (0.25, 0)


@pytest.mark.parametrize(
    ("gpus", "share", "fit"),
    [(1, 0.2, 5), (2, 0.1, 20), (1, 0.4, 2), (3, 0.3333, 9), (1, 0.0001, 10_000), (4, 1, 4), (5, 2, 2), (0, 0.5, 0)],
)
def test_the_actors_that_fit_on_gpus(gpus: int, share: float, fit: int) -> None:
    assert actors_on_gpus(gpus, share) == fit


@pytest.mark.parametrize(("num_gpus", "further"), [(0.0, ()), (0.5, ()), (1.0, ()), (3.0, ("cuda:1", "cuda:2"))])
def test_a_process_uses_all_its_gpus(
    num_gpus: float, further: tuple[str, ...], tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(actor_pool, "load_task", lambda *_, **options: given.update(options))
    study = tiny_study.at({"resources.channels_last": True, "resources.prefetch": False})
    source = _TaskSource(study.data, study.model, study.resources, tmp_path)
    _Worker(1, num_gpus).work(SimpleNamespace(do=lambda *_: None), source)
    assert given["options"] == DeviceOptions(channels_last=True, prefetch=False)
    assert given["further_devices"] == further and given["device"] == ("cuda" if num_gpus else "cpu")


@pytest.mark.parametrize(("gpus", "device"), [(None, "auto"), (0, "cpu"), (0.5, "cuda"), (1, "cuda")])
def test_the_device_of_a_trial(gpus: float | None, device: str) -> None:
    assert ResourceSettings(gpus_per_trial=gpus).device_of_trials == device


@pytest.mark.parametrize(
    ("gpus", "resources", "words"),
    [
        (0, {}, "2 CPUs, no GPU; the study uses 1 CPU a trial, 2 trials at a time"),
        (0, {"cpus_per_trial": 2}, "2 CPUs, no GPU; the study uses 2 CPUs a trial, 1 trial at a time"),
        (1, {}, "1 GPU; the study uses 0.25 GPU and 1 CPU a trial, 2 trials at a time"),
        (4, {}, "4 GPUs; the study uses 1 GPU and 1 CPU a trial, 2 trials at a time"),
        (1, {"gpus_per_trial": 0}, "2 CPUs, 1 GPU; the study uses NO GPU: --set resources.gpus_per_trial=0.5"),
        (1, {"gpus_per_trial": 0.5}, "1 GPU; the study uses 0.5 GPU and 1 CPU a trial, 2 trials at a time"),
        (1, {"gpus_per_trial": 1}, "1 GPU; the study uses 1 GPU and 1 CPU a trial, 1 trial at a time"),
    ],
)
def test_the_machine_and_what_a_study_uses_of_it(
    gpus: int, resources: dict[str, float], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert words in describe_machine(ResourceSettings.model_validate(resources), max_concurrent=4)


@pytest.mark.parametrize(
    ("files", "visible", "gpus"), [([], "", 0), (["/dev/nvidia0"], "", 1), ([], "0", 1)], ids=["none", "file", "named"]
)
def test_torch_is_asked_for_gpus_where_there_may_be_some(
    files: list[str], visible: str, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import of torch takes seconds; where it is loaded already, it is asked in any case."""
    assert machine.num_gpus() == 1, "as torch says"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(machine, "gpu_files", lambda: files)
    asked = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 1))
    monkeypatch.setattr(machine, "sys", SimpleNamespace(modules={}, platform="linux"))
    monkeypatch.setitem(sys.modules, "torch", asked)
    assert machine.num_gpus() == gpus
    monkeypatch.setattr(machine, "sys", SimpleNamespace(modules={}, platform="win32"))
    assert machine.num_gpus() == 1, "other systems have no such files"


@pytest.mark.parametrize(
    ("num_gpus", "stated", "changes", "sizes"),
    [
        (1.0, None, {}, [4, 3]),  # two GPUs
        (1.0, 2, {}, [2, 2, 2, 1]),
        (0.0, None, {}, [1] * 7),
        (1.0, 3, {"model.dropout": 0.1}, [1] * 7),
        (1.0, 3, {"model.protocol": "full_image_encoder"}, [1] * 7),
    ],
)
def test_experts_of_one_pass(
    tiny_study: Study,
    monkeypatch: pytest.MonkeyPatch,
    num_gpus: float,
    stated: int | None,
    changes: dict[str, Any],
    sizes: list[int],
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 2.0})
    study = tiny_study.at({**changes, "resources.experts_in_one_pass": stated})
    request = ExpertRequest(ExpertRecipe({}), expert_training(study), tuple(range(7)), frozenset({0}))
    groups = expert_fleet._groups(list(range(7)), request, ResourceRequest(1, num_gpus, "resources.cpus_per_expert"))
    assert [len(group) for group in groups] == sizes
    assert [index for group in groups for index in group] == list(range(7))


@pytest.mark.parametrize(
    ("cpus", "gpus", "requested", "allowed", "expected"),
    [
        (4, 0, {}, 2, 2),
        (4, 0, {}, 9, 4),
        (5, 0, {"cpus_per_trial": 2}, 9, 2),
        (1, 0, {"cpus_per_trial": 2}, 9, 1),
        (16, 2, {"gpus_per_trial": 0.5}, 9, 4),
        (16, 1, {"gpus_per_trial": 1.0}, 9, 1),
    ],
)
def test_one_machine_proposes_no_point_without_room(
    monkeypatch: pytest.MonkeyPatch,
    tiny_study: Study,
    cpus: int,
    gpus: int,
    requested: dict[str, Any],
    allowed: int,
    expected: int,
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus), "GPU": float(gpus)})
    resources = tiny_study.resources.model_copy(update=requested)
    search = tiny_study.search.model_copy(update={"max_concurrent": allowed})
    study = tiny_study.model_copy(update={"resources": resources, "search": search})
    monkeypatch.setattr(cluster, "_is_local", True)
    assert trials_at_a_time(study) == expected
    monkeypatch.setattr(cluster, "_is_local", False)
    assert trials_at_a_time(study) == allowed, "waiting trials request nodes of a cluster"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\ncache size\t: 512 KB\nmodel name\t: AMD EPYC\n", "AMD EPYC"),
        ("model name : Intel(R) Xeon(R)  CPU @ 2.50GHz\n", "Intel Xeon CPU @ 2.50GHz"),
        ("processor : 0\nCPU implementer : 0x41\n", "aarch64"),  # ARM: Linux gives numbers alone
        (None, "aarch64"),
    ],
)
def test_the_name_of_the_processor(
    file: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_PROCESSORS", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    if file is not None:
        (tmp_path / "cpuinfo").write_text(file, encoding="utf-8")
    assert machine.processor_name() == name


@pytest.mark.parametrize(
    ("num_nodes", "resources", "words"),
    [
        (1, {"CPU": 2.0, "memory": 1e9}, "2 CPUs (AMD EPYC)"),
        (1, {"CPU": 8.0, "GPU": 1.0, "accelerator_type:H200": 1.0}, "8 CPUs (AMD EPYC), 1 GPU (H200)"),
        (1, {"CPU": 1.0, "GPU": 2.0}, "1 CPU (AMD EPYC), 2 GPUs"),
        (
            3,  # processors of other nodes are not known
            {"CPU": 48.0, "GPU": 3.0, "accelerator_type:T4": 2.0, "accelerator_type:A10G": 1.0},
            "3 machines, 48 CPUs, 3 GPUs (A10G, T4)",
        ),
    ],
)
def test_a_result_names_the_machine_of_its_study(
    num_nodes: int, resources: dict[str, float], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "processor_name", lambda: "AMD EPYC")
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * num_nodes + [{"Alive": False}])
    assert cluster.describe_cluster() == words
