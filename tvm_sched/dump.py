"""Writes the module after each phase of the pipeline, for a reader who wants to see what became of the network."""

from pathlib import Path

from tvm import IRModule

from subp_contract.errors import UserError
from subp_contract.files import write_atomically
from tvm_sched.pipeline import IMPORTED, MACHINE_CODE, PHASES

NUMBERS = {name: number for number, name in enumerate([IMPORTED, *(phase.name for phase in PHASES), MACHINE_CODE])}


class Dump:
    """An observer of `pipeline.Compilation`: `04_channels_last.txt` and so on, in TVM's script, the assembly last."""

    def __init__(self, folder: str | Path):
        """Makes the folder if need be. Raises UserError where that cannot be."""
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None

    def __call__(self, name: str, content: IRModule | str) -> None:
        """Writes the module, or the text, that the phase of that name has left."""
        text, suffix = (content, "s") if isinstance(content, str) else (content.script(), "txt")
        write_atomically(self.folder / f"{NUMBERS[name]:02}_{name}.{suffix}", text.encode())
