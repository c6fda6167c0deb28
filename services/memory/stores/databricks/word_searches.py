"""Searches of an index for words: the workspace finds the rows that have them, and this service ranks those.

The workspace weighs a word by how many rows of the whole index have it, those of other groups included: its order and,
of more rows than it returns, its choice would tell a group which words others store. So rows are ranked by the words
of the owner's own rows alone, and chosen by its order only where it returns all that there are.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.memory.domain.moments import UNKNOWN, microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.searches import Found, SearchOutcome, WordQuery
from services.memory.domain.words import Term, TextTerms, WordedText, ranked_by_terms, words_of
from services.memory.rows.columns import Column, DatabricksIndexSchemas
from services.memory.rows.reader import RecordReader
from services.memory.rows.row import Row
from services.memory.rows.values import read_text
from services.memory.stores.databricks.filter_language import Owner, handed_over
from services.memory.stores.databricks.queries import MAX_RESULTS, MAX_WORD_RESULTS
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.row_checks import decision_columns, is_owned, passes

_MOST_ALONE = 16
"""Words that are looked for one by one, the longest first: those are rarely common."""
_AT_ONCE = 8
_ROWS_AT_ONCE = 1000
"""Rows whose texts are read for their words at once."""


@dataclass(frozen=True, slots=True)
class WordSearches:
    """The searches for words of one location."""

    repository: DatabricksVectorIndexRepository

    async def find(self, index: str, owner: Owner, query: WordQuery, now: datetime) -> SearchOutcome:
        """Find what `MemoryStore.search_words` does, ranked among the rows that match.

        Where more rows have the words than the workspace returns, each word is looked for alone: rows that have a rare
        one are all found. When all words are common, the owner's rows are read, up to 10,000.
        """
        search = _Search(self.repository, index, owner, query, now)
        forms = _forms(query)
        together = await search.rows_with(" ".join(forms.values()), whole=not query.include_embeddings)
        if len(together) < MAX_WORD_RESULTS:
            await search.add(together)
            by_id = {row[Column.ID]: row for row in together if isinstance(row[Column.ID], str)}
            return await search.ranked({} if query.include_embeddings else by_id)
        common = await self._add_rare(search, forms)
        if common is None:
            await search.add_all()
        return await search.ranked({}, common)

    async def _add_rare(self, search: "_Search", forms: Mapping[str, str]) -> Mapping[Term, int] | None:
        """Add the rows that have a rare word and return the common words, or None when all are common."""
        if len(forms) == 1:
            return None
        gate = asyncio.Semaphore(_AT_ONCE)
        words = sorted(forms, key=lambda word: (-len(word), word))[:_MOST_ALONE]

        async def look_up(word: str) -> bool:
            async with gate:
                rows = await search.rows_with(forms[word], whole=False)
                rare = len(rows) < MAX_WORD_RESULTS
                if rare:
                    await search.add(rows)
                return rare

        rare = await asyncio.gather(*map(look_up, words))
        if not any(rare):
            return None
        search.truncated = True
        known_rare = {word for word, is_rare in zip(words, rare, strict=True) if is_rare}
        return {(word,): MAX_WORD_RESULTS for word in forms if word not in known_rare}


@dataclass(slots=True)
class _Search:
    """One search: the rows it has seen so far, each by the terms that it has."""

    repository: DatabricksVectorIndexRepository
    index: str
    owner: Owner
    query: WordQuery
    now: datetime
    truncated: bool = False
    _texts: dict[str, TextTerms] = field(default_factory=dict)
    _unreadable: set[str] = field(default_factory=set)
    _records: int = MAX_RESULTS
    """How many records there may be in all: a word counts the more, the fewer of them have it."""

    async def rows_with(self, text: str, *, whole: bool) -> list[Row]:
        """Return the rows that have words of a text, as a search returns them or with what decides about them alone."""
        schemas, kind = DatabricksIndexSchemas, self.owner.kind
        columns = schemas.get_search_columns(kind) if whole else self._deciding()
        clauses = handed_over(self.owner, self.query.filter).clauses
        within = schemas.get_word_columns(kind)
        queries = self.repository.queries
        found = queries.rows_with_words(self.index, clauses, text, within=within, columns=columns)
        return [row async for row in found]

    async def add(self, rows: Sequence[Row]) -> None:
        """Take in those of the rows that match, with the terms that they have."""
        await asyncio.to_thread(self._read, rows)

    async def add_all(self) -> None:
        """Take in all of the owner's rows, as far as one query returns them."""
        clauses = handed_over(self.owner, self.query.filter).clauses
        received, waiting = 0, list[Row]()
        found = self.repository.queries.rows(self.index, clauses, None, MAX_RESULTS, columns=self._deciding())
        async for row in found:
            received += 1
            waiting.append(row)
            if len(waiting) == _ROWS_AT_ONCE:
                await self.add(waiting)
                waiting.clear()
        await self.add(waiting)
        self._records, self.truncated = received, received >= MAX_RESULTS

    async def ranked(self, rows: Mapping[str, Row], common: Mapping[Term, int] | None = None) -> SearchOutcome:
        """Return the best, of which `rows` has some as a search returns them; the others are read."""
        query, texts = self.query, list(self._texts.values())
        ranked = await asyncio.to_thread(ranked_by_terms, query.terms, texts, self._records, common)
        shown = ranked[query.skip : query.skip + query.limit]
        missing = [stored_id for stored_id, _ in shown if stored_id not in rows]
        if missing:
            columns = DatabricksIndexSchemas.get_search_columns(self.owner.kind)
            columns += [Column.EMBEDDING] * query.include_embeddings
            found = await self.repository.fetch(
                self.index, self.owner, missing, embeddings=query.include_embeddings, columns=columns
            )
            rows = {**rows, **found}
        reader = RecordReader(self.owner.kind, "databricks")
        results = []
        for stored_id, score in shown:
            # What was removed since it was found is left out.
            record = reader.read(rows[stored_id]) if stored_id in rows else None
            if record is not None:
                memory_id = read_text(rows[stored_id].get(Column.CREW_ID))
                key = NamespaceKey(self.owner.group_id, memory_id, self.owner.kind)
                results.append(Found(record, score, 0.0, key))
        return SearchOutcome(
            results,
            truncated=self.truncated,
            unreadable=len(self._unreadable),
        )

    def _deciding(self) -> list[str]:
        """Return the columns that say whether a row matches and which words it has."""
        kind = self.owner.kind
        names = {*decision_columns(self.owner, self.query.filter), *DatabricksIndexSchemas.get_word_columns(kind)}
        return [name for name in DatabricksIndexSchemas.get_schema(kind) if name in names]

    def _read(self, rows: Sequence[Row]) -> None:
        kind, reader = self.owner.kind, RecordReader(self.owner.kind, "databricks")
        for row in rows:
            if not is_owned(self.owner, row) or not passes(kind, self.query.filter, row, self.now):
                continue
            record = reader.read(row)
            if record is None:
                self._unreadable.add(read_text(row.get(Column.ID)))
                continue
            created = microseconds(record.created_at or UNKNOWN)
            text = WordedText(record.stored_id, created, record.searched_text)
            self._texts[text.stored_id] = TextTerms.of(text, self.query.terms)


def _forms(query: WordQuery) -> dict[str, str]:
    """Return the words to look for and what to ask for each: as it was written too, as accents may count there."""
    forms = {word: dict.fromkeys([word]) for term in query.terms for word in term}
    for written in query.text.split():
        words = words_of(written)
        if len(words) == 1 and words[0] in forms:
            forms[words[0]][written.casefold()] = None
    return {word: " ".join(written) for word, written in forms.items()}
