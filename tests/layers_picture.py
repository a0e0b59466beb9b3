"""Draws layers as a wall of bricks: each falls into its columns from above, and grows up to the next one over it."""

import dataclasses
from xml.sax.saxutils import escape

COLUMN, FLOOR, GAP, MARGIN = 64, 52, 4, 14
PADDING = 8
NAME_SIZE, WHAT_SIZE, LINE = 13, 12, 15
# By the top folder: fill, edge. Light enough for black text, in a window of either mode.
COLOURS = {
    "vmm": ("#dbe7f5", "#7d9cc0"),
    "virtio": ("#d9efdf", "#78b08a"),
    "snapshot": ("#fbeccb", "#cfa64a"),
    "api": ("#e9e0f4", "#a189c4"),
    "jailer": ("#f8dcd6", "#cc8474"),
    "rootfs-tools": ("#e4e8d0", "#9aa862"),
}


@dataclasses.dataclass
class Brick:
    columns: tuple
    floor: int  # the lowest floor that it fills
    on: list  # the names of those that it stands on
    top: int = 0  # the lowest floor above it
    also: list = dataclasses.field(default_factory=list)  # what its layer includes beside what it stands on

    def over(self, other):
        return self.columns[0] < other.columns[1] and other.columns[0] < self.columns[1]


def wall(columns):
    """Bricks by name, of `columns` by name in the order in which they fall."""
    bricks = {}
    for name, span in columns.items():
        brick = Brick(span, 0, [])
        under = {each: other for each, other in bricks.items() if brick.over(other)}
        brick.floor = max((other.floor + 1 for other in under.values()), default=0)
        bricks[name] = brick
    highest = max(brick.floor for brick in bricks.values()) + 1
    names = list(bricks)
    for name in reversed(names):
        brick = bricks[name]
        above = [bricks[each].floor for each in names[names.index(name) + 1:] if brick.over(bricks[each])]
        brick.top = min(above, default=highest)
    for name, brick in bricks.items():
        brick.on = [each for each, other in bricks.items() if other.top == brick.floor and brick.over(other)]
    return bricks


def width(text, size):
    """An estimate, in pixels, for the widest of the fonts that are asked for."""
    narrow = sum(character in "iljtfrI.,:;/|'()[] " for character in text)
    return size * (0.37 * narrow + 0.62 * (len(text) - narrow))


def wrapped(text, size, room):
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width(longer, size) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def svg(bricks, what):
    across = max(brick.columns[1] for brick in bricks.values())
    up = max(brick.top for brick in bricks.values())
    wide, high = across * COLUMN + 2 * MARGIN, up * FLOOR + 2 * MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}"'
        ' font-family="Helvetica, Arial, \'Liberation Sans\', \'DejaVu Sans\', sans-serif">',
        "<title>The layers of Mayfly: a brick stands on what it includes</title>",
        f'<rect width="{wide}" height="{high}" rx="8" fill="#ffffff"/>',
    ]
    for name, brick in reversed(bricks.items()):
        left, right = (MARGIN + each * COLUMN for each in brick.columns)
        top, bottom = (MARGIN + (up - each) * FLOOR for each in (brick.top, brick.floor))
        x, y, w, h = left + GAP / 2, top + GAP / 2, right - left - GAP, bottom - top - GAP
        fill, edge = COLOURS[name.split("/")[0]]
        room = w - 2 * PADDING
        lines = wrapped(what[name], WHAT_SIZE, room)
        lines += [f"also on {each}" for each in brick.also]
        text_high = NAME_SIZE + 3 + LINE * len(lines)
        line = y + (h - text_high) / 2 + NAME_SIZE - 2
        out.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5" fill="{fill}" stroke="{edge}"/>')
        out.append(f'<text x="{x + PADDING:g}" y="{line:g}" font-size="{NAME_SIZE}" font-weight="bold"'
                   f' fill="#1c2733">{escape(name)}</text>')
        for number, each in enumerate(lines):
            out.append(f'<text x="{x + PADDING:g}" y="{line + 3 + LINE * (number + 1):g}" font-size="{WHAT_SIZE}"'
                       f' fill="#3d4a57">{escape(each)}</text>')
    return "\n".join([*out, "</svg>", ""])
