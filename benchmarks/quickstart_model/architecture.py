"""The parts of the pipeline before training: SDXL's classes and layout, a few hundred times smaller.

Like SDXL: two CLIP text encoders whose penultimate states are concatenated, the second one's pooled embedding and six
time ids added to the time embedding, an outermost U-Net level without attention, an autoencoder with 4 channels at an
eighth of the size. Unlike SDXL: v-prediction with a schedule that ends in pure noise, because otherwise the first step
still sees the mean colour of the training pictures and backgrounds do not follow the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .faces import SIZE_PX

MAX_TOKENS = 77
TEXT_WIDTHS = (128, 160)  # hidden sizes of the two text encoders
TIME_ID_WIDTH = 32
LATENT_SIZE = SIZE_PX // 8

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def new_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's format, with merges learned from the captions."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2048, initial_alphabet=letters, end_of_word_suffix=_WORD_END, show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    with TemporaryDirectory() as folder:  # the library hands merges out only as a file
        _, merges_file = bpe.model.save(folder)
        lines = Path(merges_file).read_text(encoding="utf-8").splitlines()
    merges = [line.split() for line in lines if line and not line.startswith("#version")]
    # CLIP's order. Every byte, also at the end of a word, has a token of its own, so no text is unknown.
    tokens = [*letters, *(letter + _WORD_END for letter in letters), *("".join(pair) for pair in merges), _START, _END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=[(left, right) for left, right in merges],
        unk_token=_END,
        bos_token=_START,
        eos_token=_END,
        pad_token=_END,
        model_max_length=MAX_TOKENS,
    )


def new_text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Untrained text encoders for this tokenizer."""
    first, second = (
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            projection_dim=width,
            max_position_embeddings=MAX_TOKENS,
            hidden_act=act,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        for width, layers, act in zip(TEXT_WIDTHS, (3, 4), ("quick_gelu", "gelu"), strict=True)
    )
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)


def new_unet() -> UNet2DConditionModel:
    """An untrained U-Net."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 96, 128),
        layers_per_block=2,
        transformer_layers_per_block=1,
        attention_head_dim=(3, 3, 4),  # the number of heads, despite its name
        use_linear_projection=True,
        norm_num_groups=16,
        cross_attention_dim=sum(TEXT_WIDTHS),
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=6 * TIME_ID_WIDTH + TEXT_WIDTHS[1],
    )


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder."""
    return AutoencoderKL(
        sample_size=SIZE_PX,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        force_upcast=False,
    )


def new_scheduler() -> EulerDiscreteScheduler:
    """SDXL's scheduler, with v-prediction and zero terminal signal-to-noise ratio."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def assembled(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    text_encoder_2: CLIPTextModelWithProjection,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
) -> StableDiffusionXLPipeline:
    """The pipeline made of these parts."""
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
