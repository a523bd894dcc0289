"""What this machine has for trials and experts, asked for without starting a Ray."""

import os

import torch

from rayvldd.config.settings import ResourceSettings
from rayvldd.errors import Fault


def faults_of_resources(resources: ResourceSettings) -> list[Fault]:
    """What a study asks of this machine that it does not have, of an expert and of a trial alike.

    Ray waits without a word for resources that no machine has, and a machine of its own gets none later.
    """
    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    elsewhere = "a cluster may have more: sweep --address, or check --cluster FILE"
    faults = []
    for who in ("expert", "trial"):
        wanted = int(getattr(resources, f"cpus_per_{who}"))
        if wanted > cpus:
            allowed = f"at most what this machine has, {cpus}; {elsewhere}"
            faults.append(Fault(f"resources.cpus_per_{who}", f"asks for {wanted} CPUs", allowed))
        share = float(getattr(resources, f"gpus_per_{who}"))
        if share > gpus:
            allowed = f"at most what this machine has, {gpus}; {elsewhere}"
            faults.append(Fault(f"resources.gpus_per_{who}", f"asks for {share:g} GPUs", allowed))
    for name, amount in resources.custom_per_expert.items():
        fault = f"asks for {amount:g} {name!r}, which nodes of a cluster declare"
        faults.append(Fault("resources.custom_per_expert", fault, f"nothing on this machine alone; {elsewhere}"))
    return faults
