"""`paretune dashboard`: the pages where a study is reviewed and a configuration is chosen, with Optuna's beside them.

Importing this imports neither FastAPI nor Optuna's dashboard, which are an extra.
"""

from .access import Passwords
from .server import dashboard

__all__ = ["Passwords", "dashboard"]
