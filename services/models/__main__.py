"""`python -m services.models`."""

from services.common.runner import serve
from services.models.service import build
from services.models.settings import ModelsSettings

serve("models", build, ModelsSettings)
