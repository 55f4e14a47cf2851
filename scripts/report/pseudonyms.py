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

"""Replace the names of real people's scans in a result, once, before anything is written."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock

from ..auditing.result import AuditResult
from ..bundle.files import read_table, replacing, write_table
from ..bundle.text import spreadsheet_cell
from ..embedder.embedding_set import EmbeddingSet
from ..images.items import Item

__all__ = ["Pseudonyms"]

KEY_BYTES = 32
DIGITS = 10  # hexadecimal, of a pseudonym
SHORTEST = 4  # letters of a name that is looked for within words too
# letters that have no parts, as those with an accent do
PLAIN = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"})
COUNTER = re.compile(r"[0-9]{1,6}")  # a name that is no more than a number says nothing: 000012.png stands in many sets


class Pseudonyms:
    """Random names for people and files, the same in every audit that has the key.

    Only the key tells whose they are: names are its HMAC. The key, ``pseudonyms.key``, and the table of who is who,
    ``pseudonyms.csv``, stand in `folder`, to be kept like the images. Without a folder every audit has other names.

    Args:
        folder: of the key; made if it does not exist.

    Raises:
        ValueError: if the key is damaged.
    """

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.key = secrets.token_bytes(KEY_BYTES) if self.folder is None else _key(self.folder)
        self.known: dict[str, tuple[str, str]] = {}

    @property
    def key_id(self) -> str:
        """Says whether two audits have the same key, and nothing else."""
        return hashlib.sha256(b"pseudonyms" + self.key).hexdigest()[:16]

    def __call__(self, kind: str, name: str) -> str:
        """Return the pseudonym of a name, such as ``subject-3f09a1c2b7``."""
        digest = hmac.new(self.key, f"{kind}|{name}".encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
        pseudonym = f"{kind}-{digest[:DIGITS]}"
        self.known[pseudonym] = kind, name
        return pseudonym

    def result(self, result: AuditResult, group_column: str | None = None) -> AuditResult:
        """Return the result without ids, names and paths of training and holdout images, and write who is who.

        A skipped file loses its name and the reason, which may quote it. Generated images lose their paths. Their names
        and groups stay, unless they hold a name of a real image, as those of a conditioned model do.
        """
        names = [self("subject", name) for name in result.subject_names]
        new = dict(zip(result.subject_names, names))
        own = [names[s] for s in result.train_subject[np.unique(result.train.file, return_index=True)[1]].tolist()]
        train, holdout = self._renamed(result.train, own, "train"), result.holdout
        if holdout is not None:
            held = [self("holdout", item["subject_id"]) for item in holdout.items]
            holdout = self._renamed(holdout, held, "holdout")
        people = sorted((self("holdout", a), new[b]) for a, b in result.shared_people)
        real = [*result.train.items, *(result.holdout.items if result.holdout else [])]
        generated = self._without(result.generated, set(_names(real)), group_column)
        merged = sorted([new["+".join(group)]] for group in result.merged)
        self._write()
        return replace(
            result,
            train=train,
            holdout=holdout,
            generated=generated,
            subject_names=names,
            merged=merged,
            shared_people=people,
        )

    def _renamed(self, data: EmbeddingSet, subjects: Sequence[str], part: str) -> EmbeddingSet:
        items: list[Item] = [
            {
                "id": f"{subject}/{self('image', item['id'])}",
                "image": "",
                "subject_id": self("id", item["subject_id"]),  # also where several are one subject
            }
            for item, subject in zip(data.items, subjects)
        ]
        skipped = [(f"{part}-{number:04d}", "unreadable") for number in range(len(data.skipped))]
        return replace(data, items=items, skipped=skipped)

    def _without(self, data: EmbeddingSet, names: set[str], group_column: str | None) -> EmbeddingSet:
        """Return the generated set whose names and groups hold none of `names`, without paths."""
        ids = [item["id"] for item in data.items] + [name for name, _ in data.skipped]
        hidden = {name: self("generated", name) for name in _holding(ids, names)}
        items: list[Item] = [item | {"id": hidden.get(item["id"], item["id"]), "image": ""} for item in data.items]
        if group_column is not None:
            groups = {str(item.get(group_column)) for item in items}
            new = {group: self("group", group) for group in _holding(groups, names)}
            for item in items:  # our own, made above
                if (group := str(item.get(group_column))) in new:
                    item[group_column] = new[group]  # type: ignore[literal-required]
        skipped = [(hidden.get(name, name), "unreadable") for name, _ in data.skipped]
        return replace(data, items=items, skipped=skipped)

    def _write(self) -> None:
        """Add who is who to the table beside the key."""
        if self.folder is None:
            return
        path = self.folder / "pseudonyms.csv"
        with FileLock(self.folder / ".pseudonyms.lock"):
            rows = {row["pseudonym"]: row for row in (read_table(path) if path.exists() else [])}
            rows |= {
                pseudonym: {"pseudonym": pseudonym, "kind": kind, "name": spreadsheet_cell(name)}
                for pseudonym, (kind, name) in self.known.items()
            }
            write_table(path, [rows[pseudonym] for pseudonym in sorted(rows)])


def _key(folder: Path) -> bytes:
    """Return the folder's key, a new one if it has none."""
    path = folder / "pseudonyms.key"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".pseudonyms.lock"):
        if not path.exists():
            with replacing(path) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_text(secrets.token_hex(KEY_BYTES), encoding="utf-8")
        key = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch(f"[0-9a-f]{{{2 * KEY_BYTES}}}", key):
        raise ValueError(
            f"{path}: expected a key of {2 * KEY_BYTES} hexadecimal digits, found something else; restore it, or "
            "remove it and audit again under new pseudonyms"
        )
    return bytes.fromhex(key)


def _names(items: Sequence[Item]) -> Iterator[str]:
    """Yield all that tells which real image an item is, as :func:`_plain` writes it.

    That is its whole names, and of their words those that belong to one subject alone.
    """
    owners: dict[str, set[str]] = {}
    for item in items:
        stem = Path(item["id"]).name.split(".")[0]
        part = Path(item["id"].partition("#")[2]).name.split(".")[0]  # a member of an archive
        names = {item["id"], item["image"], item["subject_id"], stem, *([part] if part else [])}
        names |= {str(item.get(key)) for key in ("participant_id", "mask") if item.get(key) is not None}
        yield from (_plain(name) for name in names if not COUNTER.fullmatch(Path(name).name.split(".")[0]))
        for word in _words(item["id"].split(".")[0]) | _words(item["subject_id"]):
            owners.setdefault(word, set()).add(item["subject_id"])
    yield from (w for w, own in owners.items() if len(own) == 1 and len(w) >= SHORTEST and not COUNTER.fullmatch(w))


def _holding(texts: Iterable[str], names: set[str]) -> list[str]:
    """Return the texts that hold one of the names: short ones as words, longer ones anywhere."""
    texts = list(texts)
    plain = {text: _plain(text) for text in texts}
    together = "\n".join(plain.values())
    long = [name for name in names if len(name) >= SHORTEST and name in together]
    return [text for text in texts if any(name in plain[text] for name in long) or not names.isdisjoint(_words(text))]


def _plain(text: str) -> str:
    """Return a text without what two spellings of one name may differ in: case, separators, accents."""
    return "".join(_words_in_order(text))


def _words(text: str) -> set[str]:
    """Return the words of a text, alone and joined with their neighbours."""
    words = _words_in_order(text)
    return {"".join(words[a:b]) for a in range(len(words)) for b in range(a + 1, len(words) + 1)}


def _words_in_order(text: str) -> list[str]:
    letters = unicodedata.normalize("NFKD", text).casefold().translate(PLAIN)
    return re.findall(r"[^\W_]+", "".join(letter for letter in letters if not unicodedata.combining(letter)))
