"""Check the resources of a study against this machine without starting Ray."""

import os

import torch

from rayvldd.config.settings import ResourceSettings
from rayvldd.errors import Fault


def faults_of_resources(resources: ResourceSettings) -> list[Fault]:
    """Return the resource requests of experts and trials that exceed this machine.

    Ray waits silently for resources that no machine has, and a local Ray instance never gets more.
    """
    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    elsewhere = "a cluster may have more: sweep --address, or check --cluster FILE"
    faults = []
    for who in ("expert", "trial"):
        cpus_needed = int(getattr(resources, f"cpus_per_{who}"))
        if cpus_needed > cpus:
            allowed = f"at most what this machine has, {cpus}; {elsewhere}"
            faults.append(Fault(f"resources.cpus_per_{who}", f"asks for {cpus_needed} CPUs", allowed))
        gpus_needed = float(getattr(resources, f"gpus_per_{who}"))
        if gpus_needed > gpus:
            allowed = f"at most what this machine has, {gpus}; {elsewhere}"
            faults.append(Fault(f"resources.gpus_per_{who}", f"asks for {gpus_needed:g} GPUs", allowed))
    for name, amount in resources.custom_per_expert.items():
        fault = f"asks for {amount:g} {name!r}, which nodes of a cluster declare"
        faults.append(Fault("resources.custom_per_expert", fault, f"nothing on this machine alone; {elsewhere}"))
    return faults
