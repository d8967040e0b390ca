"""The record of a GPU library's kernels, next to it in a DIST: what a decoded token launches, reads and writes."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError, computed_field

from edge_transact.errors import EdgeTransactError, first_problem


class Kernel(BaseModel):
    """A kernel in all of its launches of one decoded token.

    Attributes:
        name: TVM's name of the function that launches it.
        parameters: What of the model it reads, such as ``qkv_proj``, without layer numbers.
        launches: How often it is launched.
        read_bytes: Bytes of the different elements that each launch reads, summed over launches.
        written_bytes: The same for what it writes.
        least_bytes: What it has to read and write: parameters and the cached context once, activations in and out.
        flops: Floating-point operations that it executes, those of norms and softmax included.
        groups: The fewest and the most work groups of a launch.
        threads: Threads of a work group.
        local_bytes: Local memory of a work group.
    """

    name: str
    parameters: list[str]
    launches: int
    read_bytes: int
    written_bytes: int
    least_bytes: int
    flops: int
    groups: tuple[int, int]
    threads: int
    local_bytes: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.written_bytes


class DecodeKernels(BaseModel):
    """What a GPU library executes for one decoded token, without the choice of the token.

    Attributes:
        context: Tokens that attention reads.
        kernels: In the order in which they are first launched.
    """

    context: int
    kernels: list[Kernel]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def launches(self) -> int:
        """Launches of all kernels."""
        return sum(kernel.launches for kernel in self.kernels)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes(self) -> int:
        """Bytes that all kernels read and write."""
        return sum(kernel.bytes for kernel in self.kernels)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def flops(self) -> int:
        """Floating-point operations of all kernels."""
        return sum(kernel.flops for kernel in self.kernels)

    def write(self, library: Path) -> None:
        """Write the record of a library next to it."""
        record_path(library).write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, library: Path) -> DecodeKernels:
        """The record of a library.

        Raises:
            EdgeTransactError: There is none, or this version can't read it.
        """
        path = record_path(library)
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise EdgeTransactError(
                f"{library} has no record of its kernels", fix="Build it again, with --engine tvm, for a GPU."
            ) from error
        except ValidationError as error:
            raise EdgeTransactError(f"{path} cannot be read ({first_problem(error)})", fix="Build it again.") from error


def record_path(library: Path) -> Path:
    """Where the record of a library is."""
    return library.with_suffix(".kernels.json")
