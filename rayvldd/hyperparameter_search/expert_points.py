"""The points of a study that differ in their experts."""

from typing import cast

from rayvldd.config.domains import SettingValue
from rayvldd.config.setting import setting_at
from rayvldd.config.study import Study


def expert_points(study: Study) -> list[tuple[dict[str, SettingValue], Study]]:
    """Every combination of searched settings that change the experts, with the largest number of experts of a trial."""
    most = study.largest("experts.num_experts")
    found = []
    for part, point in study.expert_combinations():
        at_point = study.at(point)
        values = at_point.model_dump(mode="json")
        shown = {key: cast(SettingValue, setting_at(values, key)) for key in part}
        found.append((shown, at_point.at({"experts.num_experts": most})))
    return found
