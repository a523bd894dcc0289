"""A study of data, model and protocol alone rises above its start: its rates are the published defaults."""

from pathlib import Path

from rayvldd.config.loading import load_study
from rayvldd.data.prepared_arrays import open_cache
from rayvldd.distillation.loop import distill
from rayvldd.experts.recipe import expert_training
from rayvldd.experts.training import train_expert
from rayvldd.models.retrieval_task import load_task


def test_a_minimal_study_of_projection_heads_rises_above_its_start(tmp_path: Path) -> None:
    """Few and short experts, few outer steps and one student, for the time; no rate is stated."""
    model = {
        "protocol": "heads_only",
        "image_encoder": {"name": "convnet_d3"},
        "text_encoder": {"pooling": "hashed_ngrams"},
    }
    fewer = {
        "experts": {"num_experts": 2, "epochs": 4, "captions_per_image": "one"},
        "distillation": {"outer_steps": 6, "evaluate_every": 6},
        "evaluation": {"num_students": 1},
    }
    study = load_study({"name": "mini", "data": {"source": "toy_scenes"}, "model": model, **fewer})
    task = load_task(study.data, study.model, open_cache(tmp_path))
    experts = [train_expert(task, expert_training(study), index)[0] for index in range(study.experts.num_experts)]
    start, last = [one.metrics["val_mean_recall"] for one in distill(study, task, experts, 0, None)]
    assert last > 1.5 * start, f"from {start:.1f} to {last:.1f}"
