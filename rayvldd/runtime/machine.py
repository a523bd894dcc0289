"""What this machine has, and whether the resources of a study fit, without starting Ray."""

import os
import platform
import re
import sys
from pathlib import Path

from rayvldd.config.settings import ResourceSettings, actors_on_gpus
from rayvldd.config.study import Study
from rayvldd.errors import Fault
from rayvldd.printable import counted

_PROCESSORS = Path("/proc/cpuinfo")
"""Linux's description of the processors; on x86 with their names."""
_GPU_FILES = ("nvidia*", "nvhost-*", "dxg", "kfd")
"""Device files of the drivers of GPUs on Linux: Nvidia's, on Jetson, below Windows, and AMD's."""


def gpu_files() -> list[str]:
    """Device files of GPUs of this machine, sorted; without one, or on another system than Linux, an empty list."""
    return sorted({str(file) for pattern in _GPU_FILES for file in Path("/dev").glob(pattern)})


def may_have_gpus() -> bool:
    """Whether torch has to be asked for the GPUs: there may be some, or it is loaded already."""
    return (
        "torch" in sys.modules
        or sys.platform != "linux"
        or bool(os.environ.get("CUDA_VISIBLE_DEVICES"))
        or bool(gpu_files())
    )


def num_gpus() -> int:
    """Number of GPUs of this machine; torch, whose import takes seconds, is not asked where there can be none."""
    if not may_have_gpus():
        return 0
    import torch

    return torch.cuda.device_count()


def processor_name() -> str:
    """Name of the processor of this machine, e.g. ``AMD EPYC``; where the system has none, its architecture."""
    try:
        lines = _PROCESSORS.read_text(encoding="utf-8").splitlines()
        found = next((line.partition(":")[2] for line in lines if line.startswith("model name")), "")
    except OSError:  # not Linux
        found = ""
    name = re.sub(r"\((R|TM)\)", "", found or platform.processor() or platform.machine(), flags=re.IGNORECASE)
    return " ".join(name.split())


def faults_of_resources(resources: ResourceSettings) -> list[Fault]:
    """Return the resource requests of experts and trials that exceed this machine.

    Ray waits silently for resources that no machine has, and a local Ray instance never gets more.
    """
    cpus, gpus = os.cpu_count() or 1, num_gpus()
    elsewhere = "a cluster may have more: sweep --address, or check --cluster FILE"
    faults = []
    for who in ("expert", "trial"):
        cpus_needed = int(getattr(resources, f"cpus_per_{who}"))
        if cpus_needed > cpus:
            allowed = f"at most the {cpus} of this machine; {elsewhere}"
            faults.append(Fault(f"resources.cpus_per_{who}", f"requests {cpus_needed} CPUs", allowed))
        gpus_needed = float(getattr(resources, f"gpus_per_{who}") or 0)
        if gpus_needed > gpus:
            allowed = f"at most the {gpus} of this machine; {elsewhere}"
            faults.append(Fault(f"resources.gpus_per_{who}", f"requests {gpus_needed:g} GPUs", allowed))
    for name, amount in resources.custom_per_expert.items():
        fault = f"requests {amount:g} {name!r}, which nodes of a cluster declare"
        faults.append(Fault("resources.custom_per_expert", fault, f"nothing on this machine alone; {elsewhere}"))
    return faults


def faults_of_graphs(study: Study) -> list[Fault]:
    """Return the CUDA graphs that a study asks for, and for which it has no GPU of this machine."""
    of_trial, of_expert = (
        study.resources.gpus_of(who, num_gpus(), study.search.max_concurrent) for who in ("trial", "expert")
    )
    elsewhere = "a cluster may have one: sweep --address"
    faults = []
    if study.distillation.engine.compile == "cuda_graphs" and not of_trial:
        allowed = f"a GPU, or true: --set distillation.engine.compile=true; {elsewhere}"
        fault = "cuda_graphs, and trials on this machine have no GPU"
        faults.append(Fault("distillation.engine.compile", fault, allowed))
    if study.resources.cuda_graphs and not (of_trial or of_expert):
        allowed = f"a GPU, or false: --set resources.cuda_graphs=false; {elsewhere}"
        faults.append(Fault("resources.cuda_graphs", "true, and this machine has no GPU for them", allowed))
    return faults


def describe_machine(resources: ResourceSettings, max_concurrent: int) -> str:
    """One line on the CPUs and GPUs of this machine and how much of them a study uses.

    Args:
        resources: The study's resources.
        max_concurrent: Trials that may run at the same time.
    """
    cpus, gpus = os.cpu_count() or 1, num_gpus()
    has = f"{counted(cpus, 'CPU')}, {counted(gpus, 'GPU') if gpus else 'no GPU'}; the study uses"
    of_trial = resources.gpus_of("trial", gpus, max_concurrent)
    if gpus and not of_trial:
        return f"{has} NO GPU: --set resources.gpus_per_trial=0.5 --set resources.gpus_per_expert=0.5"
    fit, share = min(max_concurrent, cpus // resources.cpus_per_trial), counted(resources.cpus_per_trial, "CPU")
    if of_trial:
        fit = min(fit, actors_on_gpus(gpus, of_trial))
        share = f"{of_trial:g} GPU and {share}"
    return f"{has} {share} a trial, {counted(fit, 'trial')} at a time"
