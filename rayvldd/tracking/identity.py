"""Identity of a study on a tracking server."""

from rayvldd.config.setting import MayChange, selected
from rayvldd.config.study import Study
from rayvldd.data.array_cache import fingerprint


def study_identity(study: Study, command: str, origin: str) -> str:
    """Hash of everything that must be equal for a call to resume a study; settings that may change are excluded.

    Args:
        study: The study of the call.
        command: The command line; only its verb is included, not its options.
        origin: What distinguishes studies of the same name and settings, e.g. the folder.
    """
    settings = selected(study, lambda info: info.may_change is MayChange.NEVER)
    verb = next((word for word in command.split() if word != "rayvldd"), "")
    return fingerprint({"settings": settings, "verb": verb, "origin": origin})
