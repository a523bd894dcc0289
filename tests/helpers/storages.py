"""Storages that several tests use."""

from rayvldd.storage.ray_store import RayStorage


def empty_object_store() -> RayStorage:
    """An empty storage in the object store; all tests share one, because its process takes seconds to start."""
    storage = RayStorage("tests")
    for name in storage.names():
        storage.delete(name)
    return storage
