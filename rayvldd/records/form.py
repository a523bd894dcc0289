"""The form that all records share: an object of JSON with the version of its format, checked value by value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from rayvldd.errors import RayvlddError, StoreError
from rayvldd.storage.json_files import write_json_whole

FORMAT = "format"
"""Key of the version in every file."""


class Values(BaseModel):
    """Part of a record. Values are not converted, numbers are finite, and keys of other programs are passed over."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The values as JSON has them, without optional ones that were never given."""
        values: dict[str, Any] = handler(self)
        absent = {name for name in values if getattr(self, name) is None and name not in self.model_fields_set}
        return {name: value for name, value in values.items() if name not in absent}


class Record(Values):
    """A record with a file of its own."""

    version: ClassVar[int]
    """Of the format; raised when a file of this release would mean something else to the one before."""
    title: ClassVar[str]
    """What a person calls it, e.g. ``the result of a study``."""
    remedy: ClassVar[str]
    """The next command where a file cannot be read; ``{file}`` and ``{folder}`` are replaced."""

    def as_json(self) -> dict[str, Any]:
        """The object of the file and of ``--json``."""
        return {FORMAT: self.version, **self.model_dump(mode="json")}

    def write(self, file: Path) -> None:
        """Write the file; readers see it whole or not at all."""
        write_json_whole(file, self.as_json())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the file.

        Raises:
            StoreError: when it cannot be read, holds something else, or was written by a newer release.
        """
        return FileForm(cls, cls.version, cls.title, cls.remedy).read(file)


class _Version(BaseModel):
    model_config = ConfigDict(strict=True)

    format: int


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class FileForm(Generic[M]):
    """How the files of one kind of record are read."""

    model: type[M]
    version: int
    title: str
    remedy: str

    def read(self, file: Path) -> M:
        """Read a file.

        Raises:
            StoreError: when it cannot be read, holds something else, or was written by a newer release.
        """
        try:
            content = file.read_bytes()
        except OSError as error:
            raise self.unreadable(file, error.strerror or str(error)) from None
        return self.parse(content, file)

    def parse(self, content: str | bytes, file: Path) -> M:
        """Read the content of a file.

        Raises:
            StoreError: as :meth:`read` does, naming ``file``.
        """
        self._check_version(content, file)
        try:
            return self.model.model_validate_json(content)
        except ValidationError as error:
            raise self.unreadable(file, words_of(error)) from None

    def _check_version(self, content: str | bytes, file: Path) -> None:
        try:
            found = _Version.model_validate_json(content).format
        except ValidationError as error:
            is_json_object = error.errors()[0]["loc"] == (FORMAT,)
            problem = "it names no version of its format: an earlier release wrote it" if is_json_object else None
            raise self.unreadable(file, problem or words_of(error)) from None
        if found > self.version:
            raise StoreError(
                f"{file}: {self.title} in format {found}, of a newer release; this release reads format {self.version}",
                next_command="pip install --upgrade rayvldd, then the same command",
            )
        if found < self.version:
            raise self.unreadable(file, f"format {found} is of an earlier release; this one reads {self.version}")

    def unreadable(self, file: Path, problem: str) -> RayvlddError:
        """The error of a file that holds no such record."""
        return StoreError(
            f"{file}: not readable as {self.title}: {problem}",
            next_command=self.remedy.format(file=file, folder=file.parent),
        )


def words_of(error: ValidationError) -> str:
    """Where and why values do not fit, in one line: the first of them, and how many there are."""
    first, count = error.errors(include_url=False)[0], error.error_count()
    where = ".".join(map(str, first["loc"]))
    head = f"{count} values do not fit, first " if count > 1 else ""
    return head + (f"{where}: {first['msg']}" if where else first["msg"])
