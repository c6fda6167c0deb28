"""Which card is at which path."""

import hashlib
import json
import re
from datetime import datetime
from email.utils import format_datetime

from google.protobuf import json_format

from services.common.clock import utc_now
from services.orchestrator.servicers.a2a.cards import CardMaker
from services.orchestrator.servicers.a2a.http import CardDocument
from services.orchestrator.servicers.a2a.metadata import VERSION_03
from services.orchestrator.servicers.a2a.version_03.card_document import card_document
from services.orchestrator.usecases.publications import Publications

_WELL_KNOWN, _WELL_KNOWN_03 = "/.well-known/agent-card.json", "/.well-known/agent.json"
_KEYS = "/.well-known/jwks.json"
_OF_TENANT = re.compile(r"/a2a/([0-9a-f]{32})(/0\.3)?/agent-card\.json")


class PublicCards:
    """The cards that anybody may read."""

    def __init__(self, publications: Publications, cards: CardMaker) -> None:
        self._publications = publications
        self._cards = cards
        self._begun = utc_now()

    async def find(self, path: str, version: str) -> CardDocument | None:
        """Return the card at a path, or the keys of signed cards; None where none is, and where one is not public.

        It is that of 0.3 at the paths of that version, and where that version is asked for.
        """
        signer = self._cards.signer
        if path == _KEYS:
            return None if signer is None else _document(signer.keys, self._begun)
        old = path == _WELL_KNOWN_03 or version.startswith(VERSION_03)
        if path in {_WELL_KNOWN, _WELL_KNOWN_03}:
            found = await self._publications.well_known()
        elif (named := _OF_TENANT.fullmatch(path)) is not None:
            old = old or bool(named[2])
            found = await self._publications.public(named[1])
        else:
            return None
        if found is None:
            return None
        publication, crew = found
        card = self._cards.public(publication, crew)
        document = (
            card_document(card, self._cards.tenant_extension(publication))
            if old
            else json_format.MessageToDict(self._cards.signed(card), always_print_fields_with_no_presence=True)
        )
        # A process that is begun with another key signs cards anew.
        modified = crew.updated_at if signer is None or old else max(crew.updated_at, self._begun)
        return _document(json.dumps(document, ensure_ascii=False).encode(), modified)


def _document(body: bytes, modified: datetime) -> CardDocument:
    digest = hashlib.sha256(body).hexdigest()[:32]
    return CardDocument(body, f'"{digest}"', format_datetime(modified, usegmt=True))
