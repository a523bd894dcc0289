"""The resources of trials and experts on the connected Ray: as stated by the study, or a share of its GPUs."""

from rayvldd.config.study import Study
from rayvldd.runtime.actor_pool import ResourceRequest
from rayvldd.runtime.cluster import gpus_of_cluster


def resources_of_trials(study: Study) -> ResourceRequest:
    """Return the resources of one distillation or evaluation."""
    gpus = study.resources.gpus_of("trial", gpus_of_cluster(), study.search.max_concurrent)
    return ResourceRequest(study.resources.cpus_per_trial, gpus, "resources.cpus_per_trial")


def resources_of_experts(study: Study) -> ResourceRequest:
    """Return the resources of an actor that trains experts."""
    resources = study.resources
    gpus = resources.gpus_of("expert", gpus_of_cluster(), study.search.max_concurrent)
    setting = "resources.cpus_per_expert"
    return ResourceRequest(resources.cpus_per_expert, gpus, setting, resources.custom_per_expert)
