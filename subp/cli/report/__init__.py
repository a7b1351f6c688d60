"""`subp report`: one page about training runs and measurements. A folder, as the commands' own holds fifteen files."""

from pathlib import Path

import click

from subp.cli.options.types import OutputFile, not_an_input


@click.command(short_help="One HTML page about training runs and measurements.")
@click.argument("sources", metavar="RUN...", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option("-o", "--output", type=OutputFile(".html"), required=True, help="The .html file to write.")
@click.option("--title", default="subp report", show_default=True, help="Title of the page.")
def command(sources: tuple[Path, ...], output: Path, title: str) -> None:
    """Write one HTML file about each RUN: a folder of `subp train`, a checkpoint, or a .json of `subp bench --json`.

    It shows how training went, what each layer keeps, how its mask moved, which blocks, and latencies beside each
    other, each with its numbers in a table. The file needs no network and no other file.
    """
    from subp.deployment.report import content, page
    from subp_contract.files import write_atomically

    not_an_input(output, *sources)
    html = page.page(content.read(list(sources)), title).encode()
    write_atomically(output, html)
    click.echo(f"{output}: {len(html) / 1e6:.2f} MB")
