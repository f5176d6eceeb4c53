"""Write docs/results.md's tables and the JSON schema of results.json from the validator.

python docs/schema.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jointsampler.evaluation.results import Results

DOCS = Path(__file__).parent
PAGE, SCHEMA = DOCS / "results.md", DOCS / "assets" / "results.schema.json"
BEGIN, END = "<!-- made by docs/schema.py -->\n", "<!-- end -->"


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a results.json."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | Results.model_json_schema()


def tables() -> str:
    """One Markdown table per part, the outermost first."""
    whole = schema()
    parts = {"Results": whole} | whole["$defs"]
    reached = ["Results"]
    for name in reached:  # grows while it is read: parts in the order in which they are met
        for field in parts[name]["properties"].values():
            found = re.findall(r'"#/\$defs/(\w+)"', json.dumps(field))
            reached += [other for other in dict.fromkeys(found) if other not in reached]
    return "\n".join(_table(name, parts[name]) for name in reached)


def _table(name: str, part: dict[str, Any]) -> str:
    required = part.get("required", ())
    lines = [f"### {name}", "", _flat(part["description"]), "", "| field | type | meaning |"]
    lines.append("|---|---|---|")
    for field, described in part["properties"].items():
        star = "" if field in required else " (optional)"
        kind = _kind(described).replace("|", "or")
        lines.append(f"| `{field}` | {kind}{star} | {_flat(described['description'])} |")
    return "\n".join([*lines, ""])


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _kind(field: dict[str, Any]) -> str:
    """A field's type in a few words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " | ".join(_kind(option) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        if "prefixItems" in field:
            return f"({', '.join(_kind(item) for item in field['prefixItems'])})"
        return f"list of {_kind(field.get('items', {}))}"
    if field.get("type") == "object":
        names = field.get("propertyNames", {}).get("enum")
        keys = f"{', '.join(f'`{n}`' for n in names)} " if names else ""
        values = field.get("additionalProperties")
        return f"{keys}-> {_kind(values)}" if isinstance(values, dict) else "object"
    return field.get("type", "any")


def page(text: str) -> str:
    """``text`` with its tables written anew."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(schema(), indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text()))
