# Copyright (c) MONAI Consortium
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""A result that shows itself where a notebook displays it."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from ..auditing.result import AuditResult
from ..bundle.files import table_rows

__all__ = ["ShownResult"]

MOST_SHOWN = 10  # rows
# of matches.csv: what a reader calls them, and how they are written
COLUMNS: dict[str, tuple[str, Callable[[str], str]]] = {
    "generated_id": ("generated image", str),
    "train_subject": ("training subject", str),
    "aligned_ssim": ("aligned SSIM", lambda text: f"{float(text):.3f}"),
    "p_value": ("p", lambda text: f"{float(text):.1e}"),
    "q_value": ("q", lambda text: f"{float(text):.1e}"),
    "verdict": ("verdict", str),
}
TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<p><b>{{ headline }}</b></p>
{% if rows %}
<table>
<thead><tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% if more %}
<p>and {{ more }} more in matches.csv</p>
{% endif %}
{% endif %}
<details><summary>All that was printed</summary><pre>{{ text }}</pre></details>
<p>With pictures: <a href="{{ page.as_uri() }}">{{ page }}</a></p>
""")


@dataclass(frozen=True, repr=False)
class ShownResult(AuditResult):
    """An audit's result and the words for it; the names in them are pseudonyms where these were asked for.

    `headline` is the verdict in one line, `text` what the command prints, `output_dir` where the report stands.
    """

    headline: str = ""
    text: str = ""
    output_dir: Path = Path()

    @classmethod
    def of(cls, result: AuditResult, headline: str, text: str, output_dir: Path) -> ShownResult:
        """Return a result with the words for it."""
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        return cls(**fields, headline=headline, text=text, output_dir=output_dir.absolute())

    def __repr__(self) -> str:
        return f"<{self.headline} Report: {self.output_dir / 'report.html'}>"

    def _repr_html_(self) -> str:
        """Return the verdict, the strongest calls and a link to the report."""
        rows = (row for row in table_rows(self.output_dir / "matches.csv") if row["memorized"] == "1")
        called = heapq.nsmallest(MOST_SHOWN, rows, key=lambda row: float(row["p_value"]))
        return TEMPLATE.render(
            headline=self.headline,
            text=self.text,
            columns=[name for name, _ in COLUMNS.values()],
            rows=[[written(row[key]) for key, (_, written) in COLUMNS.items()] for row in called],
            more=int(self.memorized.sum()) - len(called),
            page=self.output_dir / "report.html",
        )
