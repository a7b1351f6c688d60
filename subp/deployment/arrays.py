"""NumPy's files of arrays, from anywhere: nothing in them is unpickled, and no damage is more than a sentence."""

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from subp_contract.documents import shown
from subp_contract.errors import UserError, first_line
from subp_contract.files import require_file, require_unpacked

LARGEST = 2**32  # bytes of a file


def read_arrays(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of a .npz file by name, or that of a .npy file, whose name is "". Raises UserError for any other."""
    require_file(path, LARGEST)
    several = path.suffix == ".npz"
    try:
        if several != zipfile.is_zipfile(path):
            raise ValueError(f"its content is that of another kind than {path.suffix}")
        if several:
            with zipfile.ZipFile(path) as archive:
                require_unpacked(path, path.stat().st_size, sum(each.file_size for each in archive.infolist()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that are read another way
            held = np.load(path, allow_pickle=False)
        found = dict(held) if several else {"": held}
        if not all(isinstance(each, np.ndarray) and each.dtype.kind in "biufcV" for each in found.values()):
            raise ValueError("it holds something other than numbers")
    except UserError:
        raise
    except Exception as error:  # of any kind: NumPy's reader evaluates a header, and what it says
        raise UserError(f"{path} is not a {path.suffix} file of numbers ({shown(first_line(error))})") from error
    return found
