"""One configuration in a process of its own: started, watched, measured, judged; always giving back a value."""

from .cold_start import (
    COLD_PHASES,
    COLD_START_FIGURES,
    cold_start_figures,
    empty_caches,
    measure_cold_start,
    run_cold,
)
from .device import detect_device, installed, target_of
from .executor import Executor, cold_import_s
from .files import whole_folder, write_json, write_text
from .folder import (
    COMPILED,
    KEPT,
    LATENTS,
    LOG,
    PICTURES,
    RESULT,
    forget_all_compiled,
    forget_compiled,
    portable_workload,
    run_folder,
    trial_folder,
    write_scripts,
    write_trial_folder,
)
from .fresh_process import run_script
from .judge import latents_of
from .log import tail_of
from .process import Job
from .process_tree import DEVNULL, PIPE, ProcessTree
from .repeats import ADVICE, repetition, repetition_words, too_far
from .result import HERE, TrialResult, finished_trial

__all__ = [
    "ADVICE",
    "COLD_PHASES",
    "COLD_START_FIGURES",
    "COMPILED",
    "DEVNULL",
    "HERE",
    "KEPT",
    "LATENTS",
    "LOG",
    "PICTURES",
    "PIPE",
    "RESULT",
    "Executor",
    "Job",
    "ProcessTree",
    "TrialResult",
    "cold_import_s",
    "cold_start_figures",
    "detect_device",
    "empty_caches",
    "finished_trial",
    "forget_all_compiled",
    "forget_compiled",
    "installed",
    "latents_of",
    "measure_cold_start",
    "portable_workload",
    "repetition",
    "repetition_words",
    "run_cold",
    "run_folder",
    "run_script",
    "tail_of",
    "target_of",
    "too_far",
    "trial_folder",
    "whole_folder",
    "write_json",
    "write_scripts",
    "write_text",
    "write_trial_folder",
]
