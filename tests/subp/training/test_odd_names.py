"""`subp train` with names that a console's markup or a terminal's encoding would stumble over."""

import os
import subprocess
import sys

from PIL import Image


def test_names_of_any_kind_are_told(tmp_path):
    folder, output = tmp_path / "set", tmp_path / "r[/x][n=16]"
    for number, name in enumerate(f"{c}/{i}.png" for c in ("caf\udce9", "dög") for i in range(4)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), number).save(folder / name)
    for broken in folder.glob("*/0.png"):
        broken.write_bytes(b"no image")
    command = [sys.executable, "-m", "subp", "train", folder, "-o", output, "--skip-broken", "--method", "dense"]
    options = ["--model", "resnet20", "--epochs", "1", "--batch-size", "3", "--threads", "1"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, *options], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    told = done.stdout.decode("ascii")
    assert str(output / "model.safetensors") in told and "caf\\udce9/0.png" in told and "d\\xf6g/0.png" in told
