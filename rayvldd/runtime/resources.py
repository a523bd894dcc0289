"""The resources of trials and experts on the connected Ray: as stated by the study, or a share of its GPUs."""

from rayvldd.config.settings import actors_on_gpus
from rayvldd.config.study import Study
from rayvldd.runtime.actor_pool import ResourceRequest
from rayvldd.runtime.cluster import cpus_of_cluster, gpus_of_cluster, is_one_machine


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


def trials_at_a_time(study: Study) -> int:
    """Return the trials that a search proposes before the first of them has ended.

    On one machine these are at most those that fit on it: a point that is proposed while there is no room would wait
    and not profit from the trials that end before it. On a cluster, which may grow, waiting trials request nodes.
    """
    limit = study.search.max_concurrent
    return limit if not is_one_machine() else min(limit, work_at_a_time(study))


def work_at_a_time(study: Study) -> int:
    """Return the trials or evaluations that fit on the connected Ray as it is now, at least one."""
    of_trial = resources_of_trials(study)
    fit = int(cpus_of_cluster() // of_trial.num_cpus) if of_trial.num_cpus else study.search.max_concurrent
    if of_trial.num_gpus:
        fit = min(fit, actors_on_gpus(int(gpus_of_cluster()), of_trial.num_gpus))
    return max(1, fit)
