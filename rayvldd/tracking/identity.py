"""What makes two calls one study on a tracking server."""

from rayvldd.config.setting import MayChange, selected
from rayvldd.config.study import Study
from rayvldd.data.array_cache import fingerprint


def study_identity(study: Study, command: str, origin: str) -> str:
    """Name what must be the same for two calls to continue one study; settings that may change are left out.

    Args:
        study: The study of the call.
        command: The command line; its verb counts, its options do not.
        origin: What distinguishes studies of the same name and settings, e.g. the folder.
    """
    settings = selected(study, lambda info: info.may_change is MayChange.NEVER)
    verb = next((word for word in command.split() if word != "rayvldd"), "")
    return fingerprint({"settings": settings, "verb": verb, "origin": origin})
