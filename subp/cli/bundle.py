"""`subp bundle`: a compiled network as an archive that runs on a board without Python."""

from pathlib import Path

import click

from subp.cli.options.types import INPUT_FILE, OutputFile, cc_option, not_an_input
from subp_contract.errors import UserError

SUFFIX = ".tar.gz"


@click.command("bundle", short_help="Pack NET.SO with all that it takes to run it on a board.")
@click.argument("artifact", metavar="NET.SO", type=INPUT_FILE)
@click.option("-o", "--output", type=OutputFile(".tar.gz"), required=True, help="The .tar.gz file to write.")
@cc_option
def command(artifact: Path, output: Path, cc: str | None) -> None:
    """Pack NET.SO with a program to run it, TVM's runtime and a check, for the architecture that it was compiled for.

    On the board: unpack it, then `./run.sh --check`, `./run.sh --bench`, or `./run.sh INPUT -o OUTPUT`.
    """
    from subp.cli.options.terminal import say, working
    from subp_contract.files import write_atomically
    from tvm_sched.deploy import bundle, wheels
    from tvm_sched.deploy.manifest import read_manifest

    not_an_input(output, artifact)
    name = output.name.removesuffix(SUFFIX)
    if name in ("", output.name):
        raise UserError(f"{output} must end in {SUFFIX}")
    manifest, arch = read_manifest(artifact)
    if not wheels.is_here(arch):
        click.echo(f"fetching TVM's runtime for {arch} from PyPI: some 100 MB, once", err=True)
    with working(f"packing {artifact}"):
        files, needs = bundle.contents(artifact, cc)
        write_atomically(output, bundle.archive(files, name))
    numbers = "" if manifest["precision"] == "float32" else f", {manifest['precision']}"
    size = output.stat().st_size / 1e6
    say(f"{output}: {size:.2f} MB, target {manifest['target']} ({arch}){numbers}, {needs}")
