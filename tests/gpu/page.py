"""`python -m tests.gpu.page`: write what was checked and measured on GPUs into docs/gpu.md, from recorded JSON."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.results.markdown_file import write_into

RECORDS = Path("docs/results/gpu")
PAGE = Path("docs/gpu.md")
NOTHING = "Not measured on a GPU yet. `make gpu-check` checks and measures the one that it finds."


def page(records: Path = RECORDS) -> str:
    """Return Markdown for every recorded check: one folder per GPU, with tests.json and rates.json."""
    sections = [section(folder) for folder in sorted(records.glob("*/"))]
    return "\n\n".join(sections) if sections else NOTHING


def section(folder: Path) -> str:
    """Return Markdown for one GPU: where the numbers come from, the tests, and a table for each group of rates."""
    tests, rates = (read(folder / name) for name in ("tests.json", "rates.json"))
    either = tests or rates
    versions = ", ".join(f"{package} {version}" for package, version in either["versions"].items())
    parts = [
        f"### {either.get('gpu', either['machine'])}",
        f"{either['date'][:10]}, commit {either['commit']}, host {either['machine']}; {versions}.",
    ]
    if tests:
        parts.append(outcome(tests["tests"]))
    for name, values in rates.get("rates", {}).items():
        parts.append(table(name, values))
    return "\n\n".join(parts)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


def outcome(tests: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how many tests passed, and the names of those that did not."""
    counts = Counter(test["outcome"] for test in tests.values())
    failed = [f"`{name}`" for name, test in tests.items() if test["outcome"] != "passed"]
    return f"{counts['passed']} of {len(tests)} tests passed" + (
        f"; not {', '.join(failed)}." if failed else "."
    )


def table(name: str, values: Mapping[str, Any]) -> str:
    """Return a table of one group of rates, whose values are numbers or, for each row, numbers by column."""
    if "error" in values:
        return f"{name}: not measured ({values['error']})."
    rows = {key: value if isinstance(value, Mapping) else {"": value} for key, value in values.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [
        "| " + " | ".join([name, *columns]) + " |",
        "| " + " | ".join(["---", *["---:"] * len(columns)]) + " |",
    ]
    for key, row in rows.items():
        lines.append("| " + " | ".join([key, *[number(row.get(column)) for column in columns]]) + " |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Return a number with three significant digits, and all of those before the decimal point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    write_into(PAGE, "gpu", page())
