"""Draws the pictures of docs/concepts.md and docs/architecture.md: `python scripts/draw_concepts.py docs/pictures`.

Plain SVG, the same bytes whenever it runs; a test holds the files in the repository to it.
"""

import argparse
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

KEPT, PRUNED, INK, SOFT, WARM, PAPER = "#3f51b5", "#e8eaf6", "#222", "#666", "#e0702c", "#fff"
TIMES = "\N{MULTIPLICATION SIGN}"
N, ROWS, CHANNELS, KEPT_PER_ROW = 4, 4, 12, 3  # of the pictures' weight: [ROWS * N, CHANNELS], 75 % pruned


class Drawing:
    """Shapes on white paper of a size in pixels; letters of 13 pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.size, self.parts = (width, height), [f"<title>{escape(title)}</title>"]
        self.box(0, 0, width, height, PAPER, rounded=8)

    def box(self, x: float, y: float, width: float, height: float, fill: str, *, rounded: int = 0, line: str = "none"):
        """A rectangle by its upper left corner."""
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.parts.append(f'<rect {place} rx="{rounded}" fill="{fill}" stroke="{line}"/>')

    def text(self, x: float, y: float, words: str, *, fill: str = INK, anchor: str = "start", bold: bool = False):
        """Words on a line whose letters stand on y."""
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{fill}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def path(self, points: Iterable[tuple[float, float]], *, line: str = SOFT, arrow: bool = False):
        """Straight lines through the points."""
        end = ' marker-end="url(#head)"' if arrow else ""
        joined = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{joined}" fill="none" stroke="{line}" stroke-width="1.5"{end}/>')

    def arrow(self, x: float, y: float, to_x: float, to_y: float):
        """A line with a head."""
        self.path([(x, y), (to_x, to_y)], arrow=True)

    def labelled(self, x: float, y: float, width: float, lines: Sequence[str], fill: str = PRUNED):
        """A box with centred lines of words, the first bold."""
        self.box(x, y, width, 12 + 17 * len(lines), fill, rounded=5)
        for place, words in enumerate(lines):
            self.text(x + width / 2, y + 19 + 17 * place, words, anchor="middle", bold=not place)

    def svg(self) -> str:
        """The file."""
        width, height = self.size
        head = (
            '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{SOFT}"/></marker></defs>'
        )
        about = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        return f'<svg {about} font-family="sans-serif" font-size="13">\n{head}\n' + "\n".join(self.parts) + "\n</svg>\n"


def uniform_mask(generator: random.Random) -> list[list[bool]]:
    """[ROWS][CHANNELS], each row keeping equally many."""
    rows = [generator.sample(range(CHANNELS), KEPT_PER_ROW) for _ in range(ROWS)]
    return [[channel in row for channel in range(CHANNELS)] for row in rows]


def patterns() -> Drawing:
    """The same share of a weight kept in three ways, and what each block row is left to do."""
    drawing = Drawing(780, 330, "Single weights, 1xN blocks, and uniform 1xN blocks")
    generator, cell = random.Random(3), 14
    single = [[generator.random() < 0.25 for _ in range(CHANNELS)] for _ in range(ROWS * N)]
    counts = (6, 1, 4, 1)
    uneven = [[c in kept for c in range(CHANNELS)] for kept in (generator.sample(range(CHANNELS), n) for n in counts)]
    panels = {
        "single weights": single,
        f"1x{N} blocks": [row for row in uneven for _ in range(N)],
        f"uniform 1x{N} blocks": [row for row in uniform_mask(generator) for _ in range(N)],
    }
    notes = ("nothing for a vector to load", "rows of unequal work", "equal work in every row")
    for panel, (title, cells) in enumerate(panels.items()):
        left, top = 30 + 255 * panel, 52
        drawing.text(left, 34, title, bold=True)
        for row, kept in enumerate(cells):
            y = top + cell * row + 4 * (row // N)
            for channel, keep in enumerate(kept):
                drawing.box(left + cell * channel, y, cell - 1, cell - 1, KEPT if keep else PRUNED)
        if panel:
            for row in range(ROWS):
                count = sum(cells[row * N])
                y = top + (cell * N + 4) * row
                drawing.box(left + 176, y + 20, 6 * count, 16, WARM)
                drawing.text(left + 180 + 6 * count, y + 33, str(count), fill=SOFT)
        drawing.text(left, 306, notes[panel], fill=SOFT)
    return drawing


def kernel() -> Drawing:
    """A block row's multiply-adds."""
    drawing = Drawing(780, 250, "One block row: kept channels times vectors of N weights")
    channels, kept = 12, (1, 4, 9)
    drawing.text(30, 30, "one pixel: its input channels", bold=True)
    for channel in range(channels):
        drawing.box(30 + 22 * channel, 42, 20, 20, WARM if channel in kept else PRUNED)
    drawing.text(400, 30, f"its kept blocks: vectors of {N} weights", bold=True)
    for place, channel in enumerate(kept):
        y = 92 + 34 * place
        drawing.path([(40 + 22 * channel, 64), (40 + 22 * channel, y + 10), (380, y + 10)], arrow=True)
        drawing.text(296, y + 4, f"channel {channel}", fill=SOFT)
        for lane in range(N):
            drawing.box(400 + 34 * lane, y, 32, 20, KEPT)
        drawing.arrow(545, y + 10, 600, y + 10)
        drawing.text(552, y + 4, f"{TIMES} +", fill=SOFT)
    drawing.text(610, 84, f"{N} outputs at once", bold=True)
    for lane in range(N):
        drawing.box(610 + 34 * lane, 92, 32, 88, "#c5cae9")
    drawing.text(610, 200, "one vector register", fill=SOFT)
    drawing.text(30, 228, "The other nine channels are neither loaded nor multiplied. All rows take as many steps.")
    return drawing


def training() -> Drawing:
    """The share of pruned blocks over the epochs, and one block row at four of them."""
    drawing = Drawing(780, 260, "Pruning and regrowing while the network trains")
    left, bottom, width, height = 60, 200, 300, 150
    drawing.path([(left, bottom - height - 10), (left, bottom), (left + width, bottom)])
    shares = [0.75 * (1 - (1 - i / 40) ** 3) for i in range(41)]  # the default schedule, from 4 to 72 % of the epochs
    curve = [(left + width * (0.04 + 0.68 * i / 40), bottom - height * share) for i, share in enumerate(shares)]
    end = [(left + width, curve[-1][1])]
    drawing.path([(left, bottom), *curve, *end], line=KEPT)
    drawing.text(left, 34, "pruned blocks", bold=True)
    drawing.text(left + width + 6, curve[-1][1] + 4, "75 %")
    drawing.text(left + width / 2, bottom + 22, "epoch", anchor="middle")
    drawing.text(left + width * 0.72, bottom + 40, "from here masks stay", anchor="middle", fill=SOFT)
    drawing.path([(left + width * 0.72, bottom), (left + width * 0.72, bottom - 6)])
    drawing.text(470, 34, "one block row, epoch by epoch", bold=True)
    rows = ("111111111111", "101101111010", "001101011000", "000101010000")
    back = {(2, 6), (3, 5)}
    for place, row in enumerate(rows):
        for block, kept in enumerate(row):
            colour = WARM if (place, block) in back else KEPT if kept == "1" else PRUNED
            drawing.box(470 + 22 * block, 54 + 34 * place, 20, 24, colour)
    drawing.box(470, 200, 14, 14, KEPT)
    drawing.text(490, 212, "kept")
    drawing.box(540, 200, 14, 14, WARM)
    drawing.text(560, 212, "drawn back")
    drawing.box(650, 200, 14, 14, PRUNED)
    drawing.text(670, 212, "pruned")
    return drawing


def grid(drawing: Drawing, x: float, y: float, count: int, cell: float, fill: str) -> None:
    """A square of count x count cells, over what is behind it."""
    drawing.box(x - 1, y - 1, count * cell + 1, count * cell + 1, PAPER)
    for row in range(count):
        for column in range(count):
            drawing.box(x + cell * column, y + cell * row, cell - 1, cell - 1, fill)


def winograd() -> Drawing:
    """F(4x4, 3x3) on kept blocks."""
    drawing = Drawing(780, 250, "Winograd's algorithm on kept blocks")
    drawing.text(24, 30, "tile of the image", bold=True)
    grid(drawing, 24, 46, 6, 16, WARM)
    drawing.text(24, 164, "6x6, each channel", fill=SOFT)
    drawing.arrow(128, 94, 190, 94)
    drawing.text(132, 86, "Bᵀ d B", fill=SOFT)
    drawing.text(204, 30, "kept channels", bold=True)
    for step in range(3):
        grid(drawing, 204 + 14 * step, 46 + 10 * step, 6, 16, "#f0a070")
    drawing.arrow(340, 94, 400, 94)
    drawing.text(350, 86, f"{TIMES} +", fill=SOFT)
    drawing.text(414, 30, "36 places, N outputs", bold=True)
    for step in range(3):
        grid(drawing, 414 + 14 * step, 46 + 10 * step, 6, 16, KEPT)
    drawing.text(414, 184, "weights G g Gᵀ, made when loaded", fill=SOFT)
    drawing.arrow(550, 94, 612, 94)
    drawing.text(554, 86, "Aᵀ m A", fill=SOFT)
    drawing.text(626, 30, "16 outputs", bold=True)
    grid(drawing, 626, 46, 4, 16, "#c5cae9")
    drawing.text(24, 226, "36 multiplications where direct convolution has 16 x 9 = 144; a pruned block saves all 36.")
    return drawing


def int8() -> Drawing:
    """What becomes of a layer in 8 bits."""
    drawing = Drawing(780, 190, "A layer in 8 bits")
    boxes = (
        (20, 140, ("activations", "uint8, a scale", "and a zero point"), PRUNED),
        (200, 150, ("kept blocks", "int8, a scale for each", "output; zeros stay 0"), PRUNED),
        (390, 150, ("dot products", "4 products at a time,", "sums in int32"), "#c5cae9"),
        (580, 180, ("one rounding", "batch norm, residual, ReLU", "and scales together"), "#f6d5c0"),
    )
    for x, width, lines, fill in boxes:
        drawing.labelled(x, 30, width, lines, fill)
    drawing.text(180, 66, TIMES, anchor="middle", bold=True)
    drawing.arrow(350, 60, 386, 60)
    drawing.arrow(540, 60, 576, 60)
    drawing.path([(670, 94), (670, 130), (90, 130), (90, 97)], arrow=True)
    drawing.text(380, 150, "uint8 again, for the next layer", anchor="middle", fill=SOFT)
    return drawing


def way() -> Drawing:
    """The way of a weight, from an epoch to a file."""
    from tvm_sched.pipeline import FUSING, PHASES

    drawing = Drawing(780, 300, "The way of a weight")
    rows = (
        (
            "subp: once an epoch",
            (
                ("weight", "[O, I, kh, kw]"),
                ("blocks", "[O/N, I, N kh kw]"),
                ("scores", "[O/N, I]"),
                ("mask", "[O/N, I]"),
            ),
        ),
        (
            f"tvm_sched: pipeline, phases 1 to {len(FUSING)}",
            (
                ("layer", "N found in its zeros"),
                ("plan", "kernel and form"),
                ("packed blocks", "[G, K, kh, kw, N]"),
                ("fused function", "shared by layers"),
            ),
        ),
        (
            f"phases {len(FUSING) + 1} to {len(PHASES)}",
            (
                ("schedule", "a record, or default"),
                ("transformed", "when loaded"),
                ("multiply-adds", "prefetched"),
                ("net.so", "and its manifest"),
            ),
        ),
    )
    for row, (title, steps) in enumerate(rows):
        y = 34 + 90 * row
        drawing.text(120 if row else 20, y - 10, title, fill=SOFT)
        for place, lines in enumerate(steps):
            x = 20 + 190 * place
            drawing.labelled(x, y, 160, lines, (PRUNED, "#f6d5c0", "#c5cae9")[row])
            if place:
                drawing.arrow(x - 29, y + 23, x - 2, y + 23)
        if row:
            drawing.path([(670, y - 44), (670, y - 30), (100, y - 30), (100, y - 2)], arrow=True)
    drawing.text(640, 118, "fold: zeros in a plain weight; torch.export", anchor="end", fill=SOFT)
    return drawing


PICTURES = {
    "patterns": patterns,
    "training": training,
    "kernel": kernel,
    "winograd": winograd,
    "int8": int8,
    "way": way,
}


def main() -> None:
    """Writes NAME.svg of each picture into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where NAME.svg are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
