"""Who decides what comes next: launching and continuing studies, the loop, the sampler, reuse, judging again."""

from .ablation import ablate
from .events import Event
from .launch import files_folder, launch
from .lock import only_launcher
from .rejudge import rejudge
from .sampler import Sampler

__all__ = ["Event", "Sampler", "ablate", "files_folder", "launch", "only_launcher", "rejudge"]
