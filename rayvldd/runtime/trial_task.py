"""The task of a trial, with the resources that its study states."""

from pathlib import Path

from rayvldd.config.study import Study
from rayvldd.data.prepared_arrays import open_cache
from rayvldd.models.device_options import DeviceOptions
from rayvldd.models.gpus import further_gpus, limit_gpu_memory
from rayvldd.models.retrieval_task import OnProgress, RetrievalTask, load_task


def load_trial_task(point: Study, cache_folder: Path, on_progress: OnProgress | None = None) -> RetrievalTask:
    """Load the task of a trial on its devices; of a GPU that it shares it takes no more memory than its share.

    Args:
        point: The study at one point.
        cache_folder: Folder of decoded images and embeddings.
        on_progress: Called during long activities.

    Raises:
        ModelError: if an encoder cannot be built.
        DataError: if the dataset has faults.
    """
    resources = point.resources
    limit_gpu_memory(resources.gpus_per_trial or 0.0)  # a share that is not stated is that of Tune's process
    return load_task(
        point.data,
        point.model,
        open_cache(cache_folder),
        device=resources.device_of_trials,
        further_devices=further_gpus(resources.gpus_per_trial or 0.0),
        device_cache_gb=resources.device_cache_gb,
        options=DeviceOptions.of(resources),
        on_progress=on_progress,
    )
