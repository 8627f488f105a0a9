#!/usr/bin/env python3
"""Draws what bench/run.sh measured, as SVG: parts of the machine's limits, and what long texts cost.

    python3 bench/plot.py OUTPUT.json DIRECTORY

Needs Matplotlib. A chart whose rows were not measured is left out.
"""
import argparse
import pathlib
import re
import statistics

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: E402

import rows as bench_rows  # noqa: E402

WINDOW = 4096
WITH, WITHOUT = "#1f6fb4", "#c8641e"  # a rolling cache, and one that grows
LIMITS = {"read bandwidth": "#1f6fb4", "bfloat16 peak": "#2f8f5b", "integer peak": "#8a5ab0", "float32 peak": "#8a8a8a"}

# The rows of the first chart, from top to bottom.
ROOFLINE = {
    "model/bfloat16/decode/position:0/window:4096": "decode, bfloat16",
    "model/q8/decode/position:0/window:4096": "decode, Q8",
    "model/q4/decode/position:0/window:4096": "decode, Q4",
    "model/q4/decode/position:4096/window:4096": "decode, Q4, full window",
    "model/bfloat16/prefill/tokens:512": "prompt of 512, bfloat16",
    "model/q8/prefill/tokens:512/balanced": "prompt of 512, Q8",
    "model/q4/prefill/tokens:512/balanced": "prompt of 512, Q4",
    "model/q8/prefill/tokens:512/fast": "prompt of 512, Q8, 8-bit activations",
    "model/q4/prefill/tokens:512/fast": "prompt of 512, Q4, 8-bit activations",
    "attention/last_chunk/tokens:4096/window:4096/head_dim:128": "attention alone, 4096 keys",
}


def axes(width=7, height=3.6):
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e4e4e4", linewidth=0.8)
    ax.set_axisbelow(True)
    return figure, ax


def position_axis(ax, label, positions):
    """Positions from 1024 on, doubling."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1024:g}k"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks([x for x in (2**n for n in range(9, 18)) if min(positions) <= x <= max(positions)])
    ax.set_xlabel(label)


def series(rows, pattern):
    """The points (number in the name, row) of the rows whose names match the pattern, in order."""
    matches = ((re.fullmatch(pattern, name), row) for name, row in rows.items())
    return sorted(((int(match[1]), row) for match, row in matches if match), key=lambda point: point[0])


def roofline(rows):
    present = [(text, rows[name]) for name, text in ROOFLINE.items() if name in rows]
    if not present:
        return None
    figure, ax = axes(height=0.6 + 0.36 * len(present))
    for i, (_, row) in enumerate(present):
        percent = 100 * row["of_limit"]
        ax.barh(i, percent, color=LIMITS[row["label"]], height=0.62)
        ax.text(min(100, percent) - 1, i, f"{percent:.0f} %", color="white", va="center", ha="right")
    ax.set_yticks(range(len(present)), [text for text, _ in present])
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    ax.set_xlabel("% of what the machine reached in the same run")
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    seen = dict.fromkeys(row["label"] for _, row in present)
    handles = [plt.Rectangle((0, 0), 1, 1, color=LIMITS[label]) for label in seen]
    figure.legend(handles, seen, loc="outside upper right", ncols=len(seen), frameon=False)
    return figure


def decode(rows):
    """Others that share the memory change its speed from row to row: each is told as it would be at their mean."""
    curves = [(size, series(rows, rf"model/q4/decode/position:(\d+)/window:{size}")) for size in (WINDOW, 0)]
    curves = [(size, [point for point in points if point[0] >= 1024]) for size, points in curves]
    if not all(points for _, points in curves):
        return None
    figure, ax = axes()
    bandwidth = statistics.mean(row["read_GB/s"] for _, points in curves for _, row in points)
    for (size, points), color in zip(curves, (WITH, WITHOUT)):
        times = [1000 / row["tokens/s"] * row["read_GB/s"] / bandwidth for _, row in points]
        ax.plot([x for x, _ in points], times, "o-", color=color, label=f"window of {size}" if size else "no window")
    position_axis(ax, "position", [x for _, points in curves for x, _ in points])
    ax.set_ylim(bottom=0)
    ax.set_ylabel(f"ms per token, at {bandwidth:.0f} GB/s")
    ax.legend(frameon=False)
    return figure


def cache(_):
    """From arithmetic: 2 * kv_heads * head_dim numbers of 16 bits in each of 32 layers for a position."""
    per_position = 2 * 8 * 128 * 2 * 32
    lengths = [2**n for n in range(10, 18)]
    figure, ax = axes()
    ax.plot(lengths, [min(n, WINDOW) * per_position / 2**30 for n in lengths], "o-", color=WITH,
            label=f"window of {WINDOW}: a rolling cache")
    ax.plot(lengths, [n * per_position / 2**30 for n in lengths], "o-", color=WITHOUT, label="no window")
    ax.annotate("8 times as much", (32768, 4), (6144, 6), arrowprops={"arrowstyle": "-", "color": "#555555"})
    position_axis(ax, "length of the text", lengths)
    ax.set_ylabel("cache, GiB")
    ax.legend(frameon=False)
    return figure


def prefill(rows):
    curves = [(size, series(rows, rf"layer/bfloat16/prefill/tokens:(\d+)/window:{size}")) for size in (WINDOW, 0)]
    if not all(points for _, points in curves):
        return None
    figure, ax = axes()
    for (size, points), color in zip(curves, (WITH, WITHOUT)):
        ax.plot([x for x, _ in points], [100 * row["tokens/s"] / points[0][1]["tokens/s"] for _, row in points], "o-",
                color=color, label=f"window of {size}" if size else "no window")
    position_axis(ax, "length of the prompt", [x for _, points in curves for x, _ in points])
    ax.set_ylim(bottom=0)
    ax.set_ylabel("tokens/s, % of those at 512")
    ax.legend(frameon=False, loc="lower left")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--format", default="svg", help="svg or png")
    arguments = parser.parse_args()
    rows, _ = bench_rows.read(arguments.output)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    # The same measurements give the same bytes, and text stays text.
    plt.rcParams.update({"svg.hashsalt": "mistral", "svg.fonttype": "none", "font.family": "sans-serif"})
    for chart in (roofline, decode, cache, prefill):
        figure = chart(rows)
        if figure is not None:
            metadata = {"Date": None} if arguments.format == "svg" else None
            figure.savefig(arguments.directory / f"{chart.__name__}.{arguments.format}", metadata=metadata)


if __name__ == "__main__":
    main()
