"""Compiled code that travels in a bundle: built from the calls that a workload makes, used for calls that are the same.

Exported with the techniques that compile, as the functions of `_modules` are.
"""

from typing import Any

from ._aot_compile import compile_call_to_folder, load_call_from_folder
from ._aotinductor import compile_to_library, load_library
from ._beside import compile_beside, copied
from ._call_shape import call_key, described, described_switches, named_differences, put_together, switches
from ._modules import torch_modules
from ._standalone import compile_to_folder, load_from_folder, load_portable_cache, start_triton
from ._structure import module_weights, unseen_tensor, watched_structure


def open_artefacts(folder: Any, on_miss: str, strict: bool = False) -> Any:
    """What the compiling techniques get as `artefacts`: what is in `folder`, loaded; None to compile as if there were
    none.

    on_miss: what becomes of a call that nothing in it fits. "compile": it is answered eagerly while torch.compile works
    in another thread; "eager"; "error": RuntimeError; "build": what it would need is built and put into the folder, in
    the way that its index.json names (standalone_compile where there is none).
    strict: code that cannot be loaded, because a library of the system is older say, is an error and no warning.
    The garbage collector rests meanwhile.
    Raises ValueError for another one, and RuntimeError where the folder cannot be used.
    """
    import gc
    import json
    import logging
    import pathlib

    import torch

    if on_miss not in ("compile", "eager", "error", "build"):
        raise ValueError(f'on_miss is "compile", "eager" or "error", not {on_miss!r}')
    if folder is None:
        return None
    folder = pathlib.Path(folder)
    file = folder / "index.json"
    if on_miss == "build" and not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"schema": 1, "way": "standalone_compile", "torch": torch.__version__, "parts": []}))
    try:
        index = json.loads(file.read_text())
        schema, way = index["schema"], index["way"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeError(f"{file} cannot be used ({error}): export the bundle again") from None
    if schema != 1 or way not in ("standalone_compile", "aot_compile", "aotinductor", "portable_cache"):
        raise RuntimeError(f"{file} is of another version ({schema}, {way}): export the bundle again")
    if index["torch"] != torch.__version__:
        raise RuntimeError(f"{folder} was compiled by torch {index['torch']}, and this is torch {torch.__version__}")
    if way == "portable_cache":
        load_portable_cache(folder / "cache.bin")
        return None
    store: dict[str, Any] = {"folder": folder, "on_miss": on_miss, "index": index, "code": {}}
    if torch.version.cuda is not None and torch.cuda.is_available():
        start_triton(folder / "driver", changing=on_miss == "build")
    collecting = gc.isenabled()
    gc.disable()  # what is loaded stays, and looking through all that was ever imported takes half a second each time
    try:
        for entry in index["parts"]:
            if "failed" in entry:
                continue
            try:
                run = load_code(store, entry)
            except Exception as error:
                said = f"the code for {entry['part']} of {entry['module']} cannot be loaded: {error}"
                if strict:
                    raise RuntimeError(said) from error
                logging.getLogger("artefacts").warning("%s", said)
            else:
                store["code"][entry["code"]] = (entry, run)
    finally:
        if collecting:
            gc.enable()
    return store


def load_code(store: Any, entry: Any) -> Any:
    """The code of an entry: a function of tensors, in the order of the entry's inputs, that returns tensors; where
    these are "call", a function of (inner, args, kwargs) that returns what inner does.
    """
    place, changing = store["folder"] / "code" / entry["code"], store["on_miss"] == "build"
    way = store["index"]["way"]
    if way == "aot_compile":
        return load_call_from_folder(place, changing=changing)
    if way == "aotinductor":
        return load_library(place, device=entry["device"])
    return load_from_folder(place, changing=changing)


def exported(module: Any, inner: Any, structure: Any, tensors: list[Any]) -> Any:
    """inner, which is of the module, for a call of that structure, as torch.export has it: (its program; the weights
    and inputs that its graph takes, in order; what each of them is, as plain data).

    Raises TypeError for what would not be right with other weights.
    """
    import torch

    class Boundary(torch.nn.Module):
        """Only tensors go in and come out."""

        def __init__(self) -> None:
            super().__init__()
            self.inside = module

        def forward(self, *given: Any) -> Any:
            args, kwargs = put_together(structure, given)
            returned: list[Any] = []
            described(inner(*args, **kwargs), returned)
            return tuple(returned)

    # torch.export leaves copies of dictionaries that are attributes in their place.
    before = [(each, dict(vars(each))) for each in module.modules()]
    try:
        program = torch.export.export(Boundary(), tuple(tensors), strict=False)
    finally:
        for each, kept in before:
            vars(each).update(kept)
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise TypeError("it changes weights or inputs in place")
    weights, given = module_weights(module), iter(tensors)
    flat: list[Any] = []
    inputs: list[Any] = []
    for number, spec in enumerate(signature.input_specs):
        name = (spec.target or "").removeprefix("inside.")
        if spec.kind is torch.export.graph_signature.InputKind.USER_INPUT:
            inputs.append("input")
            flat.append(next(given))
        elif name in weights:
            inputs.append(["weight", name])
            flat.append(weights[name])
        else:
            constant = program.constants.get(spec.target)
            if constant is None or constant.numel() > 8:
                raise TypeError(f"{name or f'input {number}'} is no weight of the {type(module).__name__}")
            inputs.append(["constant", str(constant.dtype), str(constant.device), constant.tolist()])
            flat.append(constant)
    return program, flat, inputs


def build_artefact(store: Any, code: str, call: Any, of: str, module: Any, part: str, inner: Any, options: Any) -> Any:
    """Compile inner, which is module.part, for calls such as call = (args, kwargs), and keep it in the store as `code`.
    of: the hash of what the module is.

    Returns what inner says to that call. What cannot be built is noted in the index, with the reason.
    """
    import json
    import os
    import shutil
    import sys
    import time

    import torch

    folder, way, began = store["folder"], store["index"]["way"], time.perf_counter()
    entry: dict[str, Any] = {"code": code, "part": part, "module": type(module).__name__, "structure": of}
    result = inner(*call[0], **call[1])
    draft = folder / "code" / f"draft-{code}"

    def build() -> Any:
        tensors: list[Any] = []
        wanted: list[Any] = []
        structure = described(call, tensors)
        if unseen := unseen_tensor(module):
            raise TypeError(f"{unseen} is a tensor, and code would not see that it changes")
        entry.update(call=structure, result=described(result, wanted), switches=described_switches(), options=options)
        entry["device"] = str(next((one.device for one in tensors if one.device.type != "cpu"), "cpu"))
        shutil.rmtree(draft, ignore_errors=True)
        draft.parent.mkdir(exist_ok=True)
        with torch.inference_mode(False), torch.no_grad():
            if way == "aot_compile":
                entry["inputs"], given = "call", [inner, *call]
                compile_call_to_folder(inner, call, options, draft)
            else:
                program, given, entry["inputs"] = exported(module, inner, structure, tensors)
                compile_now = compile_to_library if way == "aotinductor" else compile_to_folder
                compile_now(program, given, options, draft)
            os.replace(draft, folder / "code" / code)
            run = load_code(store, entry)
            found: list[Any] = []
            described(run(*given), found)
        # Rounding differs, and nothing else.
        entry["difference"] = 0.0
        for ours, theirs in zip(found, wanted, strict=True):
            ours, theirs = ours.double(), theirs.double()
            apart = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))
            entry["difference"] = max(entry["difference"], apart)
        if not entry["difference"] < 0.05:
            raise TypeError(f"it computes something else: the difference is {entry['difference']:.3g}")
        return run

    try:
        store["code"][code] = (entry, build())
    except Exception as error:
        entry["failed"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        for place in (draft, folder / "code" / code):
            shutil.rmtree(place, ignore_errors=True)
    entry["seconds"] = round(time.perf_counter() - began, 3)
    # One at a time, so that what is built stays when this process ends early.
    store["index"]["parts"] = [one for one in store["index"]["parts"] if one["code"] != code] + [entry]
    (folder / "index.new").write_text(json.dumps(store["index"], indent=1))
    os.replace(folder / "index.new", folder / "index.json")
    what = f"{part} of {entry['module']}: {entry.get('failed', 'built')}"
    print(f"build {len(store['index']['parts'])} {what}", file=sys.stderr, flush=True)
    return result


def why_missed(store: Any, module: Any, code: str, about: Any) -> str:
    """Why there is no code for a call of the module, which `code` would be the name of: it could not be built or not be
    loaded, or what of the call is unlike the built one that is nearest.

    about: (part, structure of the module, the described call, the described switches, options).
    """
    part, structure, call, now, options = about
    found: list[list[str]] = []
    for entry in store["index"]["parts"]:
        if entry["code"] == code:
            why = f"built for such a call: {entry['failed']}" if "failed" in entry else "loaded that was built for it"
            return f"nothing was {why}"
        if (entry["module"], entry["part"]) != (type(module).__name__, part) or "failed" in entry:
            continue
        (ours, named), (theirs, names) = call["tuple"], entry["call"]["tuple"]
        unlike = named_differences(ours, theirs, "arguments") + named_differences(named, names)
        then = entry["switches"]
        unlike += [f"{name} is {now[name]}, not {then.get(name)}" for name in now if now[name] != then.get(name)]
        unlike += ["options of torch.compile"] if options != entry["options"] else []
        # Of the module there is no more than a hash. Bundles of before do not have it in the index.
        if entry.get("structure", structure) != structure or not unlike:
            unlike.append("layers, settings or weights of the module")
        found.append(unlike)
    if not found:
        return "nothing was built for such a call, nor for any other"
    nearest = min(found, key=len)
    more = f", and {len(nearest) - 4} more" if len(nearest) > 4 else ""
    return f"nothing was built for such a call; unlike the nearest that was built: {'; '.join(nearest[:4])}{more}"


def answered(store: Any, module: Any, part: str, inner: Any, compile_now: Any, options: Any, counts: Any) -> Any:
    """A function that takes the place of inner, which is module.part: it runs the code in the store that was built for
    such a call of such a module, and where there is none it does what the store's `on_miss` says.

    compile_now(function) gives what torch.compile makes of a function; options: what the code was compiled with.
    counts: its calls are counted in it.
    """
    import hashlib
    import json
    import logging
    import os
    import threading

    import torch

    look = watched_structure(module)
    known: dict[Any, Any] = {}  # {what is taken for granted: (entry, run), or None}
    bound: dict[str, Any] = {}  # {code: (the weights as look() gave them, what the code takes, where its inputs go)}
    ready: dict[Any, Any] = {}  # {the same: what torch.compile has made of it meanwhile, None as long as it works}
    said: set[Any] = set()
    made: list[Any] = []
    cannot = "nothing can be built for this call, because {}"

    def about_call(structure: str, call: Any) -> list[Any]:
        """Everything that code for such a call depends on."""
        return [part, structure, described(call, []), described_switches(), options]

    def code_of(about: list[Any]) -> str:
        """The name of that code."""
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    def run_loaded(found: Any, weights: Any, call: Any, tensors: list[Any]) -> Any:
        entry, run = found
        if entry["inputs"] == "call":
            return run(inner, *call)
        if entry["code"] not in bound or bound[entry["code"]][0] is not weights:
            taken: list[Any] = []
            for one in entry["inputs"]:
                if one == "input":
                    taken.append(None)
                elif one[0] == "weight":
                    taken.append(weights[one[1]])
                else:
                    dtype = getattr(torch, one[1].removeprefix("torch."))
                    taken.append(torch.tensor(one[3], dtype=dtype, device=one[2]))
            bound[entry["code"]] = (weights, taken, [place for place, one in enumerate(taken) if one is None])
        _, taken, places = bound[entry["code"]]
        flat = taken.copy()
        for place, tensor in zip(places, tensors, strict=True):
            flat[place] = tensor
        return put_together(entry["result"], run(*flat))

    def compile_aside(key: Any, call: Any) -> None:
        try:
            ready[key] = compile_beside(inner, compile_now, made, (key[0], key[2]), call)
        except Exception as error:
            logging.getLogger("artefacts").warning("%s of %s is not compiled: %s", part, type(module).__name__, error)
            ready[key] = inner
        counts["ready"] += 1

    def claimed(code: str) -> bool:
        """Whether this process is to build it: of several that build side by side, the one that comes first."""
        if "claims" not in store["index"]:
            return True
        try:
            os.close(os.open(os.path.join(store["index"]["claims"], code), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def recording() -> bool:
        """Whether a CUDA graph is being recorded: nothing else can be done meanwhile."""
        return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()

    def missed(key: Any, call: Any, structure: Any, why: str = "") -> Any:
        counts["missed"] += 1
        kind = type(module).__name__
        first = (key and key[1:], why) not in said and store["on_miss"] != "build"
        if not why and (first or store["on_miss"] == "error"):
            about = about_call(structure, call)
            reason = why_missed(store, module, code_of(about), about)
        else:
            reason = why
        if first:
            said.add((key and key[1:], why))
            logging.getLogger("artefacts").warning("%s of %s: %s (%s)", part, kind, reason, store["on_miss"])
        if store["on_miss"] == "error":
            raise RuntimeError(f"{part} of {kind}: {reason}, and on_miss is error")
        if store["on_miss"] == "build" and key is not None and not recording():
            counts["eager"] += 1
            code = code_of(about_call(structure, call))
            if not claimed(code):
                known[key] = False
                return inner(*call[0], **call[1])
            result = build_artefact(store, code, call, structure, module, part, inner, options)
            known[key] = store["code"].get(code)
            if known[key] is None:
                known[key] = False  # tried, and once is enough
            return result
        if ready.get(key) not in (None, inner):
            counts["compiled"] += 1
            return ready[key](*call[0], **call[1])
        counts["eager"] += 1
        if store["on_miss"] != "compile" or key is None or key in ready or recording():
            return inner(*call[0], **call[1])
        ready[key], again = None, copied(call)
        result = inner(*call[0], **call[1])
        if look()[0] == structure:
            threading.Thread(target=compile_aside, args=(key, again), daemon=True).start()
        else:  # it counts its calls, say, and one more of them beside this one would be one too many
            ready[key] = inner
        return result

    def call(*args: Any, **kwargs: Any) -> Any:
        counts["calls"] += 1
        tensors: list[Any] = []
        try:
            shape = call_key((args, kwargs), tensors)
        except TypeError as error:
            return missed(None, (args, kwargs), None, cannot.format(error))
        if torch.is_grad_enabled():
            return missed(None, (args, kwargs), None, "nothing was built for gradients")
        structure, weights, _ = look()
        key = (structure, shape, switches())
        if key not in known:
            try:
                code = code_of(about_call(structure, (args, kwargs)))
            except TypeError as error:  # a number of another library, a dictionary of a class of its own
                return missed(None, (args, kwargs), None, cannot.format(error))
            if len(known) == 4096:  # what changes with each call would fill the memory
                known.clear()
            known[key] = store["code"].get(code)
        if known[key]:
            counts["loaded"] += 1
            return run_loaded(known[key], weights, (args, kwargs), tensors)
        if known[key] is False:
            counts["missed"] += 1
            counts["eager"] += 1
            return inner(*args, **kwargs)
        return missed(key, (args, kwargs), structure)

    return call


def counters(pipelines: Any) -> dict[str, int]:
    """How the calls of compiled parts were answered, all together: "calls"; "loaded" of them by code that came with the
    configuration; "missed", for which there was none: "eager" of these as if nothing were compiled, "compiled" of them
    by code made meanwhile. "graphs" were made by torch.compile.
    """
    names = ("calls", "loaded", "missed", "eager", "compiled", "graphs")
    named = pipelines if isinstance(pipelines, dict) else {"main": pipelines}
    modules = [module for pipeline in named.values() for module in torch_modules(pipeline).values()]
    layers = {id(layer): layer for module in modules for layer in module.modules()}.values()
    parts = [counts for layer in layers for counts in vars(layer).get("compiled_parts", {}).values()]
    return {name: sum(counts[name] for counts in parts) for name in names}
