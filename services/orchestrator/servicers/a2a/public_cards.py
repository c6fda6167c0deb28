"""Which card is at which path."""

import hashlib
import json
import re
from email.utils import format_datetime

from google.protobuf import json_format

from services.orchestrator.servicers.a2a.cards import CardMaker
from services.orchestrator.servicers.a2a.http import CardDocument
from services.orchestrator.usecases.publications import Publications

WELL_KNOWN = "/.well-known/agent-card.json"
_OF_TENANT = re.compile(r"/a2a/([0-9a-f]{32})/agent-card\.json")


class PublicCards:
    """The cards that anybody may read."""

    def __init__(self, publications: Publications, cards: CardMaker) -> None:
        self._publications = publications
        self._cards = cards

    async def find(self, path: str) -> CardDocument | None:
        """Return the card at a path; None where none is, and where one is not public."""
        if path == WELL_KNOWN:
            found = await self._publications.well_known()
        elif (named := _OF_TENANT.fullmatch(path)) is not None:
            found = await self._publications.public(named[1])
        else:
            return None
        if found is None:
            return None
        publication, crew = found
        card = json_format.MessageToDict(
            self._cards.public(publication, crew), always_print_fields_with_no_presence=True
        )
        body = json.dumps(card, ensure_ascii=False).encode()
        digest = hashlib.sha256(body).hexdigest()[:32]
        return CardDocument(body, f'"{digest}"', format_datetime(crew.updated_at, usegmt=True))
