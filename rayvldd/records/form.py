"""Common form of all records: a JSON object with the version of its format, validated by pydantic."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from rayvldd.errors import RayvlddError, StoreError
from rayvldd.records.json_values import JsonObject
from rayvldd.storage.json_files import write_json_whole

FORMAT = "format"
"""Key of the version in every file."""


class Values(BaseModel):
    """Part of a record. Values are not converted, numbers must be finite, and unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The values for JSON, without optional ones that were not given."""
        values: dict[str, Any] = handler(self)
        absent = {name for name in values if getattr(self, name) is None and name not in self.model_fields_set}
        return {name: value for name, value in values.items() if name not in absent}

    def as_json(self) -> JsonObject:
        """The object for ``--json``."""
        values: JsonObject = self.model_dump(mode="json")
        return values


class Record(Values):
    """A record with its own file."""

    version: ClassVar[int]
    """Version of the format; increased when the previous release would misread a file of this release."""
    title: ClassVar[str]
    """Name of the record in messages, e.g. ``the result of a study``."""
    remedy: ClassVar[str]
    """The next command if a file cannot be read; ``{file}`` and ``{folder}`` are replaced."""

    def as_json(self) -> JsonObject:
        """The object of the file and of ``--json``."""
        return {FORMAT: self.version, **super().as_json()}

    def write(self, file: Path) -> None:
        """Write the file atomically."""
        write_json_whole(file, self.as_json())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the file.

        Raises:
            StoreError: if it cannot be read, is not such a record, or was written by a newer release.
        """
        return FileForm(cls, cls.version, cls.title, cls.remedy).read(file)


class _Version(BaseModel):
    model_config = ConfigDict(strict=True)

    format: int


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class FileForm(Generic[M]):
    """Reader of the files of one kind of record."""

    model: type[M]
    version: int
    title: str
    remedy: str

    def read(self, file: Path) -> M:
        """Read a file.

        Raises:
            StoreError: if it cannot be read, is not such a record, or was written by a newer release.
        """
        try:
            content = file.read_bytes()
        except OSError as error:
            raise self.unreadable(file, error.strerror or str(error)) from None
        return self.parse(content, file)

    def parse(self, content: str | bytes, file: Path) -> M:
        """Read the content of a file.

        Raises:
            StoreError: like :meth:`read`, naming ``file``.
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
        """The error for a file that is not such a record."""
        return StoreError(
            f"{file}: not readable as {self.title}: {problem}",
            next_command=self.remedy.format(file=file, folder=file.parent),
        )


def words_of(error: ValidationError) -> str:
    """Describe invalid values in one line: the first one, and their number."""
    first, count = error.errors(include_url=False)[0], error.error_count()
    where = ".".join(map(str, first["loc"]))
    head = f"{count} values do not fit, first " if count > 1 else ""
    return head + (f"{where}: {first['msg']}" if where else first["msg"])
