"""The contract of every metric with weights, on random weights, and values of the published implementations."""

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from paretune.objectives.learned import LEARNED, LearnedMetric, Scorer, hpsv2, learned_metric
from safetensors.torch import load_file, save_file
from support import tiny_weights
from torch import Tensor

BY_NAME = {metric.name: metric for metric in LEARNED}
each_metric = pytest.mark.parametrize("metric", LEARNED, ids=lambda metric: metric.name)
each_drift = pytest.mark.parametrize(
    "metric", [m for m in LEARNED if m.kind == "drift"], ids=lambda metric: metric.name
)
MODULES = {"open_clip_torch": "open_clip"}  # where a package's module is called otherwise

Load = Callable[..., Scorer]


def importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # RuntimeError of a torchvision for another torch
        return False
    return True


def change(picture: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return (picture + torch.randn(picture.shape, generator=generator) * 0.2).clamp(0, 1)


def known_pair() -> tuple[Tensor, Tensor]:
    """A pair from integer formulas, which other implementations can be given exactly."""
    y, x = torch.arange(192)[:, None], torch.arange(176)[None, :]
    reference = torch.stack([(x * (3 + c) + y * (2 + c) + ((x * y) // (7 + c)) * 5) % 256 for c in range(3)])[None]
    change = torch.stack([((x * 31 + y * 17 + c * 7 + (x * y) % 13) % 21) - 10 for c in range(3)])[None]
    return reference.float() / 255, (reference + change).clamp(0, 255).float() / 255


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights.write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def load(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Gives a metric's scorer on random weights; skips where the metric's package is not installed."""
    folder = tmp_path_factory.mktemp("weights")
    paths: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name == "lpips":
            return tiny_weights.write_lpips(folder / "lpips")
        if name == "hpsv2":
            return tiny_weights.write_hpsv2(folder / "hpsv2", "tiny-hps")
        if name == "image_reward":
            return tiny_weights.write_image_reward(folder / "image_reward")
        if name == "dreamsim":
            return tiny_weights.write_dreamsim(folder / "dreamsim")
        return clip

    def load(metric: LearnedMetric, device: str = "cpu") -> Scorer:
        for package in metric.packages:
            if not importable(MODULES.get(package, package)):
                pytest.skip(f"needs {package}")
        if metric.name not in paths:
            paths[metric.name] = write(metric.name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hpsv2, "ARCHITECTURE", "tiny-hps")
            return metric.load(paths[metric.name], device)

    return load


def test_names_are_unique_and_documented() -> None:
    assert len(BY_NAME) == len(LEARNED)
    for metric in LEARNED:
        assert metric.unit
        assert metric.weights
        assert metric.summary
        assert metric.source
        assert learned_metric(metric.name) is metric
    with pytest.raises(ValueError, match="did you mean lpips"):
        learned_metric("lpip")
    with pytest.raises(ValueError, match="there are lpips"):
        learned_metric("fid")


def test_listing_them_imports_no_model_library() -> None:
    code = (
        "import sys, paretune.objectives.learned;"
        "assert not {'transformers', 'torchvision', 'open_clip', 'dreamsim', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@each_drift
def test_equal_pictures_get_exactly_the_best_value(metric: LearnedMetric, load: Load, comic: Tensor) -> None:
    pictures = torch.cat([comic, change(comic)])
    best = 1.0 if metric.higher_is_better else 0.0
    assert load(metric)(pictures, pictures.clone(), []).tolist() == [best, best]


@each_drift
def test_more_change_is_worse(metric: LearnedMetric, load: Load, comic: Tensor) -> None:
    candidates = torch.cat([comic, (comic + 0.02).clamp(0, 1), change(comic)])
    values = load(metric)(comic.repeat(3, 1, 1, 1), candidates, []).tolist()
    assert values == sorted(values, reverse=metric.higher_is_better)
    assert len(set(values)) == 3


@each_metric
def test_one_float64_per_picture_its_own_and_nothing_mutated(metric: LearnedMetric, load: Load, comic: Tensor) -> None:
    score = load(metric)
    prompts = ["a cat", "the red sea", "a photo of a dog"]
    reference, candidate = comic.repeat(3, 1, 1, 1), torch.cat([comic, change(comic), torch.zeros_like(comic)])
    kept = reference.clone(), candidate.clone()
    together = score(reference, candidate, prompts)
    assert together.shape == (3,)
    assert together.dtype == torch.float64
    assert together.isfinite().all()
    assert torch.equal(reference, kept[0])
    assert torch.equal(candidate, kept[1])
    alone = [score(reference[i : i + 1], candidate[i : i + 1], prompts[i : i + 1]).item() for i in range(3)]
    assert together.tolist() == alone


@each_metric
def test_half_precision_and_oblong_pictures_are_accepted(metric: LearnedMetric, load: Load, comic: Tensor) -> None:
    pictures = torch.cat([comic, change(comic)])[:, :, :96].half()
    assert load(metric)(pictures, pictures, ["a cat"] * 2).isfinite().all()


@each_metric
def test_what_is_missing_or_wrong_is_said(metric: LearnedMetric, load: Load, comic: Tensor) -> None:
    score = load(metric)
    with pytest.raises(ValueError, match="floats"):
        score(comic, (comic * 255).to(torch.uint8), ["a cat"])
    if metric.kind == "drift":
        with pytest.raises(ValueError, match="reference"):
            score(None, comic, [])
        with pytest.raises(ValueError, match="shape"):
            score(comic, comic[:, :, :64], [])
    if metric.needs_prompt:
        for prompts in ([], ["a cat", "a dog"], "a"):
            with pytest.raises(ValueError, match="prompt"):
                score(comic, comic, prompts)


@each_metric
@pytest.mark.parametrize("case", ["absent", "empty", "damaged"])
def test_a_path_without_the_weights_is_one_sentence(
    metric: LearnedMetric, case: str, tmp_path: Path, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    load(metric)  # skips without the package
    path = tmp_path / "weights"
    if case == "empty":
        path.mkdir()
    if case == "damaged":
        path.write_bytes(b"these are no weights")
    capsys.readouterr()
    with pytest.raises(ValueError, match="does not hold") as error:
        metric.load(path, "cpu")
    assert len(str(error.value).splitlines()) == 1
    assert str(path) in str(error.value)


@pytest.mark.parametrize("metric", [m for m in LEARNED if m.packages], ids=lambda metric: metric.name)
def test_a_missing_package_is_one_sentence(
    metric: LearnedMetric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package,) = metric.packages
    monkeypatch.setitem(sys.modules, MODULES.get(package, package), None)
    with pytest.raises(ValueError, match=f"pip install {package}$") as error:
        metric.load(tmp_path, "cpu")
    assert len(str(error.value).splitlines()) == 1


def test_weights_are_read_once(clip: Path) -> None:
    assert BY_NAME["clip_i"].load(clip, "cpu") is BY_NAME["clip_i"].load(clip, "cpu")


def test_lpips_agrees_with_the_authors_package(load: Load) -> None:
    # lpips 0.1.4 with these weights, net="alex", normalize=True, in float64
    assert load(BY_NAME["lpips"])(*known_pair(), []).item() == pytest.approx(0.006246507443257238, rel=1e-5)


def test_lpips_reads_safetensors_and_needs_31_px(tmp_path: Path, load: Load) -> None:
    trunk, heads = tiny_weights.lpips_weights()
    save_file(trunk, tmp_path / "alexnet-owt-7be5be79.safetensors")
    save_file(heads, tmp_path / "alex.safetensors")
    score = BY_NAME["lpips"].load(tmp_path, "cpu")
    assert score(*known_pair(), []).tolist() == load(BY_NAME["lpips"])(*known_pair(), []).tolist()
    assert score(torch.zeros(1, 3, 31, 31), torch.ones(1, 3, 31, 31), []).isfinite().all()
    with pytest.raises(ValueError, match="31 px"):
        score(torch.zeros(1, 3, 30, 31), torch.ones(1, 3, 30, 31), [])


def test_lpips_says_which_weights_a_file_lacks(tmp_path: Path) -> None:
    trunk, heads = tiny_weights.lpips_weights()
    del heads["lin3.model.1.weight"]
    torch.save(trunk, tmp_path / "alexnet-owt-7be5be79.pth")
    torch.save(heads, tmp_path / "alex.pth")
    with pytest.raises(ValueError, match=r"lin3\.model\.1\.weight not found$"):
        BY_NAME["lpips"].load(tmp_path, "cpu")


def test_the_clip_metrics_are_what_transformers_computes(clip: Path, load: Load) -> None:
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    prompts = ["a cat on a red mat", "the sea"]
    pictures = torch.cat(known_pair())
    pixels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    inputs = CLIPImageProcessorPil.from_pretrained(clip)([Image.fromarray(p) for p in pixels], return_tensors="pt")
    tokenizer = CLIPTokenizer.from_pretrained(clip)
    tokens = tokenizer(prompts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        output = CLIPModel.from_pretrained(clip)(**tokens, **inputs)
    between_pictures = (output.image_embeds[0] @ output.image_embeds[1]).item()
    with_prompts = (output.image_embeds * output.text_embeds).sum(dim=1)
    scale = output.logits_per_image.diagonal() / with_prompts

    assert load(BY_NAME["clip_i"])(pictures[:1], pictures[1:], []).item() == pytest.approx(between_pictures, abs=1e-5)
    points = load(BY_NAME["clip_score"])(None, pictures, prompts).tolist()
    assert points == pytest.approx((100 * with_prompts).clamp_min(0).tolist(), abs=1e-3)
    assert max(points) > 1
    preference = load(BY_NAME["pick_score"])(None, pictures, prompts).tolist()
    assert preference == pytest.approx((scale * with_prompts).tolist(), abs=1e-3)


def test_image_reward_agrees_with_the_authors_package(load: Load) -> None:
    # image-reward 1.5 with these weights, two layers of width 128, on transformers 4.38.2 and torchvision 0.29.1.
    # 171 px: resized to 251.5 px, and half a pixel is to be cropped, so its roundings count.
    pictures = torch.cat(known_pair())[:, :, :, :171]
    published = {
        "a cat on a red mat": [-3.6434593200683594, -3.806605577468872],
        "Café [ENC] 東京, naïve!": [-2.655224323272705, -2.806480646133423],
        "cat dog bird fish tree house car sun moon star": [-3.101564407348633, -3.225407600402832],
    }
    for prompt, values in published.items():
        ours = load(BY_NAME["image_reward"])(None, pictures, [prompt] * 2).tolist()
        assert ours == pytest.approx(values, rel=1e-5)


def test_image_reward_reads_safetensors_and_half_precision(tmp_path: Path, load: Load, comic: Tensor) -> None:
    tiny_weights.write_image_reward(tmp_path)
    (tmp_path / "ImageReward.pt").unlink()
    weights = {name: tensor.half() for name, tensor in tiny_weights.image_reward_weights().items()}
    save_file(weights, tmp_path / "ImageReward.safetensors")
    value = BY_NAME["image_reward"].load(tmp_path, "cpu")(None, comic, ["a cat"]).item()
    assert value == pytest.approx(load(BY_NAME["image_reward"])(None, comic, ["a cat"]).item(), rel=2e-2)


def test_an_image_reward_folder_that_lacks_something_is_refused(tmp_path: Path) -> None:
    folder = tiny_weights.write_image_reward(tmp_path)
    load, words, weights = BY_NAME["image_reward"].load, folder / "vocab.txt", tiny_weights.image_reward_weights()
    words.write_text(words.read_text().replace("##z\n", ""))
    with pytest.raises(ValueError, match=r"vocab\.txt has 56 words, the weights know 57$"):
        load(folder, "cpu")
    words.unlink()
    with pytest.raises(ValueError, match=r"vocab\.txt not found$"):
        load(folder, "cpu")
    del weights["blip.visual_encoder.norm.weight"]
    torch.save(weights, tiny_weights.write_image_reward(folder) / "ImageReward.pt")
    with pytest.raises(ValueError, match=r"blip\.visual_encoder\.norm\.weight not found$"):
        load(folder, "cpu")
    (folder / "ImageReward.pt").write_bytes(b"these are no weights")
    with pytest.raises(ValueError, match="does not hold"):
        load(folder, "cpu")


@pytest.mark.parametrize("name", ["pick_score", "image_reward"])
def test_a_prompt_beyond_the_models_length_is_cut_off(name: str, load: Load, comic: Tensor) -> None:
    score = load(BY_NAME[name])
    long = "cat " * 200
    assert score(None, comic, [long]).item() == score(None, comic, [long + "dog"]).item()


def test_a_clip_folder_that_lacks_something_is_refused(clip: Path, tmp_path: Path) -> None:
    without_words = shutil.copytree(clip, tmp_path / "words")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (without_words / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"vocab\.json"):
        BY_NAME["clip_score"].load(without_words, "cpu")

    without_a_layer = shutil.copytree(clip, tmp_path / "layer")
    weights = load_file(clip / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, without_a_layer / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 of its weights"):
        BY_NAME["clip_i"].load(without_a_layer, "cpu")


@pytest.mark.gpu
@each_metric
def test_a_gpu_gives_the_same_values(metric: LearnedMetric, load: Load, comic: Tensor) -> None:
    pictures, changed = comic.repeat(2, 1, 1, 1), torch.cat([comic, change(comic)])
    prompts = ["a cat", "the red sea"]
    there = load(metric, "cuda")(pictures.cuda(), changed.cuda(), prompts)
    assert there.device.type == "cpu"
    # TF32 convolutions, and weights drawn at random, which amplify rounding.
    assert there.tolist() == pytest.approx(load(metric)(pictures, changed, prompts).tolist(), rel=2e-2, abs=2e-3)
