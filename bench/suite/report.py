# SPDX-License-Identifier: Apache-2.0
"""What a comparison is shown as: a table for a terminal, docs/performance.md, and a plot (SVG)."""
import math
import pathlib

from .machines import TITLES
from .measure import geometric_mean
from .rows import BY_NAME

GROUPS = (("micro", "Small loops"), ("system", "System calls and exits"), ("whole", "Whole programs"), ("boot", "Boot"))
COLOURS = {"vireo": "#1f77b4", "tcg7": "#d62728", "tcg10": "#ff9d5c"}


def duration(seconds):
    if seconds is None:
        return ""
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or (unit == "us" and seconds >= 1e-7):
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def times(ratio):
    return "" if ratio is None else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def verdict(row):
    """What the row's bars say: empty without a bar."""
    said = []
    bars, ratios = row["bars"], row["ratios"]
    if "native" in bars and "vireo_native" in ratios:
        said.append((ratios["vireo_native"] <= bars["native"], f"{bars['native']:g}x native"))
    if "us" in bars and "vireo" in row["median_s"]:
        said.append((row["median_s"]["vireo"] * 1e6 < bars["us"], f"{bars['us']:g} us"))
    if row["group"] == "whole" and "faster_than_tcg" in ratios:
        said.append((ratios["faster_than_tcg"] >= 2.5 or ratios.get("vireo_native", 99) <= 1.5, "2.5x TCG or 1.5x native"))
    return "; ".join(f"{'meets' if ok else 'misses'} {what}" for ok, what in said)


def means(result):
    """Geometric means of the issue: whole programs against TCG, user-mode whole programs against native."""
    whole = [row for row in result["rows"] if row["group"] == "whole"]
    user = [row for row in whole if BY_NAME[row["name"]].user]
    out = {"whole_faster_than_tcg": geometric_mean(r["ratios"]["faster_than_tcg"] for r in whole if "faster_than_tcg" in r["ratios"])}
    for name in ("vireo", "tcg7", "tcg10"):
        out[f"user_{name}_native"] = geometric_mean(r["ratios"][f"{name}_native"] for r in user if f"{name}_native" in r["ratios"])
    return {key: value for key, value in out.items() if value}


def cells(row, names):
    median = row["median_s"]
    out = [row["title"]] + [duration(median.get(name)) for name in names]
    out += [times(row["ratios"].get(f"{name}_native")) for name in names if name != "native"]
    if row["group"] == "whole":  # what translating it for the first time costs
        out.append(duration(row["times_s"].get("vireo", [None])[0]))
    return out + [times(row["ratios"].get("faster_than_tcg")), verdict(row)]


def heads(names, group):
    return ["", *(TITLES[name] for name in names), *(f"{TITLES[name]} / native" for name in names if name != "native"),
            *(["vireo's first run"] if group == "whole" else []), "faster than TCG", "bar"]


def about(result):
    facts = result["facts"]
    lines = [f"{facts['date']}, commit {facts['commit']}",
             f"{facts['cpus']} CPUs ({facts['cpu']}), {facts['memory_gib']} GiB, Linux {facts['kernel']}" +
             (", itself a virtual machine" if facts["virtual"] else ""),
             f"load average at the end {facts['load_after']} (others' work on the machine makes the figures noisy)",
             "; ".join(f"{TITLES[name]}: {text}" for name, text in result["machines"].items()),
             f"median of {result['rounds']} rounds, whole programs at {result['size_percent']} % of full size"]
    return lines


def table(result):
    names = list(result["machines"])
    out = about(result)
    for group, title in GROUPS:
        rows = [row for row in result["rows"] if row["group"] == group]
        if not rows:
            continue
        grid = [[title, *heads(names, group)[1:]]] + [cells(row, names) for row in rows]
        widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
        out.append("")
        out += ["  ".join(text.ljust(w) if i in (0, len(line) - 1) else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths))).rstrip()
                for line in grid]
    out.append("")
    out += summary(result)
    return "\n".join(out)


def summary(result):
    words = {"whole_faster_than_tcg": "whole programs, times faster than the faster TCG", "user_vireo_native": "user-mode whole programs, vireo over native",
             "user_tcg7_native": "user-mode whole programs, TCG 7.2 over native", "user_tcg10_native": "user-mode whole programs, TCG 10 over native"}
    out = [f"geometric mean: {words[key]}: {value:.2f}" for key, value in means(result).items()]
    compared = sum(row["outputs_compared"] for row in result["rows"])
    return out + [f"outputs compared and found equal: {compared}"] + [f"trouble: {text[:400]}" for text in result["trouble"]]


def limits(path):
    """What limits a row as far as known: lines "name: text"."""
    known = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, text = line.partition(": ")
            known[name] = text
    return known


def markdown(result, known, plot):
    names = list(result["machines"])
    out = ["<!-- SPDX-License-Identifier: Apache-2.0 -->", "<!-- Made by bench/compare --docs; what limits a row comes from bench/limits.txt. -->",
           "# Performance", "",
           "The same programs natively, on QEMU TCG (`-accel tcg,thread=multi -cpu max`, virtio) and on vireo (softkvm), in turn in one run,",
           "by the host's clock: medians. Kernel, initial RAM disk, command line, disk and CPU count are the same; outputs are compared by",
           "checksum. Guests run Linux 6.1; natively the host's own kernel serves the system calls.", ""]
    out += [f"- {line}" for line in about(result)] + [""] + [f"- {line}" for line in summary(result)]
    out += ["", f"![time over native by row, logarithmic; rows without a native figure are left out]({plot})"]
    for group, title in GROUPS:
        rows = [row for row in result["rows"] if row["group"] == group]
        if not rows:
            continue
        head = [*heads(names, group), "what limits vireo, as far as known"]
        out += ["", f"## {title}", "", "| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 3) + " --- | --- |"]
        out += ["| " + " | ".join([*cells(row, names), known.get(row["name"], "")]) + " |" for row in rows]
    return "\n".join(out) + "\n"


def svg(result):
    """Bars of time over native on a logarithmic scale; rows without a native figure are left out."""
    rows = [row for row in result["rows"] if "native" in row["median_s"]]
    names = [name for name in result["machines"] if name != "native"]
    left, width, bar = 240, 560, 6
    step = bar * len(names) + 6
    height = 60 + step * len(rows)
    worst = max([v for row in rows for v in row["ratios"].values()] + [10])
    decades = math.ceil(math.log10(worst))

    def x(ratio):
        return left + width * max(0.0, math.log10(max(ratio, 0.1)) + 0.3) / (decades + 0.3)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{height}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>', '<text x="8" y="16" font-size="13">time over native (1 = native), logarithmic</text>']
    for i, name in enumerate(names):
        out.append(f'<rect x="{left + 110 * i}" y="22" width="10" height="10" fill="{COLOURS[name]}"/>'
                   f'<text x="{left + 110 * i + 14}" y="31">{TITLES[name]}</text>')
    for decade in range(decades + 1):
        at = x(10**decade)
        out.append(f'<line x1="{at:.1f}" y1="40" x2="{at:.1f}" y2="{height - 14}" stroke="{"#333" if decade == 0 else "#ccc"}"/>'
                   f'<text x="{at:.1f}" y="{height - 3}" text-anchor="middle">{10**decade}</text>')
    for i, row in enumerate(rows):
        top = 44 + step * i
        out.append(f'<text x="{left - 6}" y="{top + step / 2 + 1:.1f}" text-anchor="end">{row["title"]}</text>')
        for j, name in enumerate(names):
            ratio = row["ratios"].get(f"{name}_native")
            if ratio:
                out.append(f'<rect x="{left}" y="{top + bar * j}" width="{max(1, x(ratio) - left):.1f}" height="{bar - 1}" fill="{COLOURS[name]}">'
                           f"<title>{row['title']}: {TITLES[name]} {ratio:.2f}</title></rect>")
    return "\n".join([*out, "</svg>"]) + "\n"
