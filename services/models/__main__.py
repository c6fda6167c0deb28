"""`python -m services.models`."""

from services.common.first_signals import end_on_signals

if __name__ == "__main__":
    end_on_signals()

from services.common.runner import serve
from services.models.service import build
from services.models.settings import ModelsSettings

if __name__ == "__main__":
    serve("models", build, ModelsSettings)
