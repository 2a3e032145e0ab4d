"""``flamingo_jax.load`` gives a ``Model``: what its methods refuse, and what their different inputs have in common."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.api import Model, load
from flamingo_jax.config import GatedConfig, LanguageConfig, ModelConfig, ResamplerConfig, ViTConfig
from flamingo_jax.models.decoder import Decoder
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.models.vit import ViT

IMAGE, PAD = 7, 0
TOKENS = np.array([[IMAGE, 9, IMAGE, 20, 31], [8, IMAGE, 11, 12, 13]])  # two images and one


@pytest.fixture(scope="module")
def images():
    """Three of uint8: two of the first row, one of the second."""
    return list(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def rows(images):
    return [images[:2], images[2:]]


@pytest.fixture(scope="module")
def padded(images):
    return np.stack([images[:2], [images[2], np.zeros_like(images[2])]])


def make(module, *inputs, **options):
    init = jax.jit(lambda key: nn.meta.unbox(module.init(key, *inputs)))
    variables = {key: value for key, value in init(jax.random.key(0)).items() if key in ("params", "frozen")}
    return Model(module.config, module, variables, **options)


LANGUAGE = LanguageConfig(vocab_size=16, width=8, depth=1, heads=2, max_positions=6, tied=False)
VISION = ViTConfig(width=8, depth=1, heads=2, patch_size=4, grid=(2, 2))


@pytest.fixture(scope="module")
def language():
    return make(Decoder(LANGUAGE, jnp.dtype("float32")), jnp.zeros((1, 2), jnp.int32))


@pytest.fixture(scope="module")
def encoder():
    return make(ViT(VISION, jnp.dtype("float32")), jnp.zeros((1, 8, 8, 3)))


@pytest.fixture(scope="module")
def model():
    """The two with a bridge between them, whose gates are open."""
    config = ModelConfig(
        language=dataclasses.replace(LANGUAGE, vocab_size=32, vocab_rows=32, max_positions=0),
        vision=dataclasses.replace(VISION, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
        resampler=ResamplerConfig(width=8, depth=1, heads=2, head_size=4, latents=2),
        gated=GatedConfig(every=1, heads=2, head_size=4, gate_init=1.0),
        dtype="float32",
        remat="none",
    )
    tokens = jnp.zeros((1, 2), jnp.int32)
    return make(Flamingo(config, (3,)), tokens, jnp.zeros((1, 1, 1, 8, 8, 3)), tokens, image_token=IMAGE)


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_language_model_takes_no_images(language):
    with pytest.raises(ValueError, match="takes no images"):
        language.logits([[1, 2]], images=np.zeros((1, 1, 8, 8, 3)))
    for method in ("features", "pooled"):
        with pytest.raises(ValueError, match="no vision encoder"):
            getattr(language, method)(np.zeros((1, 8, 8, 3)))


def test_a_vision_encoder_takes_no_tokens(encoder):
    for method in ("logits", "hidden"):
        with pytest.raises(ValueError, match="vision encoder and has no tokens"):
            getattr(encoder, method)([[1, 2]])
    with pytest.raises(ValueError, match="vision encoder and has no tokens"):
        encoder.greedy([[1, 2]], steps=1)


@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 3, 8, 8), (2, 1, 8, 8, 3)])
def test_a_vision_encoder_takes_images_with_channels_last(encoder, shape):
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]") as error:
        encoder.features(np.zeros(shape))
    assert str(list(shape)) in str(error.value)
    with pytest.raises(ValueError, match="8 x 3 pixels is smaller than one patch of 4"):
        encoder.features(np.zeros((1, 8, 3, 3)))


def test_more_tokens_than_the_context(language):
    assert language.logits(np.ones((1, 6), int)).shape == (1, 6, 16)
    with pytest.raises(ValueError, match="7 tokens are longer than .* 6"):
        language.logits(np.ones((1, 7), int))


def test_a_prompt_and_new_tokens_beyond_the_context(language):
    assert language.greedy(np.ones((1, 4), int), steps=2).shape == (1, 2)
    with pytest.raises(ValueError, match="prompt of 4 tokens and 3 new ones do not fit .* 6"):
        language.greedy(np.ones((1, 4), int), steps=3)


def test_greedy_repeats_the_token_that_stops_it(model):
    """The other row goes on."""
    prompts = np.array([[23, 16], [19, 20]])
    free = np.asarray(model.greedy(prompts, steps=5))
    stop = int(free[0, 1])
    assert stop not in free[0, :1] and stop not in free[1] and len(set(free[0])) > 2
    expected = [[free[0, 0], *[stop] * 4], free[1].tolist()]
    assert np.asarray(model.greedy(prompts, steps=5, stop=stop)).tolist() == expected


def test_hidden_states_are_what_the_head_reads(language):
    tokens, head = np.array([[1, 2, 3]]), language.variables["params"]["embedding"]["head"]
    same(language.hidden(tokens) @ head.T, language.logits(tokens))


@pytest.mark.parametrize(
    "given, seen, counts",
    [
        ([1, 1], "[2, 1]", "[1, 1]"),
        ([1, 2], "[2, 1]", "[1, 2]"),
        ([0, 0], "[2, 1]", "[0, 0]"),
        (None, "[2, 1]", "[0, 0]"),
        (1, "[2, 1]", "but 1 media"),
        (3, "[2, 1]", "but 3 media"),
    ],
)
def test_one_image_per_image_token(model, images, given, seen, counts):
    """Lists per row, none at all, and arrays."""
    if isinstance(given, list):
        given = [images[:count] for count in given]
    elif given:
        given = np.zeros((2, given, 8, 8, 3))
    with pytest.raises(ValueError, match="give one medium per <image>") as error:
        model.logits(TOKENS, images=given)
    assert seen in str(error.value) and counts in str(error.value)


def test_an_image_without_its_token(model, images):
    tokens = np.where(TOKENS == IMAGE, 9, TOKENS)
    for given in ([images[:1], images[:1]], np.zeros((2, 1, 8, 8, 3))):
        with pytest.raises(ValueError, match=r"\[0, 0\] <image> tokens"):
            model.logits(tokens, images=given)
    same(model.logits(tokens, images=[[], []]), model.logits(tokens))


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (2, 2, 3, 8, 8), (3, 2, 8, 8, 3), (2, 8, 8, 3)])
def test_wrong_shape_of_images(model, shape):
    with pytest.raises(ValueError, match=r"\[B, N, H, W, 3\] or \[B, N, T, H, W, 3\] with B=2") as error:
        model.logits(TOKENS, images=np.zeros(shape))
    assert ", ".join(map(str, shape[:2])) in str(error.value)


def test_images_of_different_shapes(model, images):
    with pytest.raises(ValueError, match="must have one shape"):
        model.logits(TOKENS, images=[[images[0], images[1][:4]], images[2:]])


def test_without_an_image_token_the_index_must_be_given(model, padded):
    nameless = dataclasses.replace(model, image_token=None)
    with pytest.raises(ValueError, match="give media_index"):
        nameless.logits(TOKENS, images=padded)
    index = (TOKENS == IMAGE).cumsum(1)
    same(nameless.logits(TOKENS, None, padded, index), model.logits(TOKENS, images=padded))
    seen = index[..., None] == np.arange(1, 3)
    same(nameless.logits(TOKENS, None, padded, seen), model.logits(TOKENS, images=padded))


def test_bytes_are_normalised(model, padded):
    vision = model.config.vision
    floats = (padded / 255 - np.array(vision.mean)) / np.array(vision.std)
    expected = model.logits(TOKENS, images=floats.astype(np.float32))
    same(model.logits(TOKENS, images=padded), expected)
    assert np.abs(model.logits(TOKENS, images=padded.astype(np.float32)) - expected).max() > 1e-3


def test_lists_of_images_are_the_padded_array(model, rows, padded):
    expected = model.logits(TOKENS, images=padded)
    np.testing.assert_array_equal(model.logits(TOKENS, images=rows), expected)
    np.testing.assert_array_equal(model.logits(TOKENS, images=padded[:, :, None]), expected)
    assert np.abs(model.logits(TOKENS, images=padded[:, ::-1]) - expected).max() > 1e-3


def test_left_padding_changes_nothing(model, rows):
    wide = np.pad(TOKENS, ((0, 0), (3, 0)), constant_values=PAD)
    mask = np.pad(np.ones(TOKENS.shape), ((0, 0), (3, 0)))
    same(model.logits(wide, mask, rows)[:, 3:], model.logits(TOKENS, images=rows))
    expected = model.greedy(TOKENS, images=rows, steps=4)
    np.testing.assert_array_equal(model.greedy(wide, mask, rows, steps=4), expected)


def test_what_follows_a_closed_document_sees_nothing(model, rows, padded):
    """With ``end_token``, as IDEFICS packs documents."""
    packed = dataclasses.replace(model, end_token=20)  # in column 3 of the first row
    expected = model.logits(TOKENS, None, padded, [[1, 1, 2, 0, 0], [0, 1, 1, 1, 1]])
    same(packed.logits(TOKENS, images=rows), expected)
    assert np.abs(model.logits(TOKENS, images=rows) - expected).max() > 1e-3


def test_what_would_be_misread_is_refused(model):
    """Padding on the wrong side, an index of media that are not there, images of mixed types."""
    tokens = np.array([[1, 5, 6, 0]])
    with pytest.raises(ValueError, match="padded on the left"):
        model.greedy(tokens, tokens > 0, steps=2)
    images = np.zeros((1, 1, 8, 8, 3), np.uint8)
    for wrong in ([[0, 1, 1, 2]], [[0, 1, 1, -1]]):
        with pytest.raises(ValueError, match="media_index must be 0 to 1, the number of media, but goes from"):
            model.logits(tokens, images=images, media_index=np.array(wrong))
    with pytest.raises(ValueError, match="media_index must be .* of whole numbers or bool, but are of type float64"):
        model.logits(tokens, images=images, media_index=[[0, 1, 1, 1.5]])
    with pytest.raises(ValueError, match="media_index names media, but there are no images"):
        model.logits(tokens, media_index=[[0, 1, 1, 1]])
    with pytest.raises(ValueError, match=r"media_index is \[1, 3\], but must be \[B, L\] = \[1, 4\]"):
        model.logits(tokens, images=images, media_index=np.array([[0, 1, 1]]))
    with pytest.raises(ValueError, match="one type; got float32, uint8"):
        model.logits(tokens, images=[[images[0, 0], images[0, 0].astype(np.float32)]])


def test_tokens_of_a_wrong_shape_or_range_are_refused(language):
    last = language.config.vocab_rows - 1
    assert np.isfinite(language.logits([[0, last]])).all()
    with pytest.raises(ValueError, match=rf"Token ids must be 0 to {last}, but go from 0 to {last + 1}"):
        language.logits([[0, last + 1]])
    with pytest.raises(ValueError, match=r"must both be \[B, L\], but are \[2\] and \[2\]"):
        language.logits([0, 1])
    with pytest.raises(ValueError, match=r"are \[1, 2\] and \[1, 3\]"):
        language.logits([[0, 1]], mask=[[1, 1, 1]])
    with pytest.raises(ValueError, match="steps must be at least 1, but is 0"):
        language.greedy([[0, 1]], steps=0)


def test_a_type_of_weights_that_is_none_is_refused():
    with pytest.raises(ValueError, match="dtype='float17' is unknown; did you mean"):
        load("anywhere", dtype="float17")


@pytest.mark.parametrize(
    "tokens, mask, words",
    [
        ([[1, 2], [3]], None, "tokens must be [B, L], rows of one length"),
        ([[1.0, 2.5]], None, "tokens must be [B, L] of integers, but are of type float64"),
        ("hello", None, "tokens must be [B, L] of integers, but are of type <U5"),
        ([[True, False]], None, "of integers, but are of type bool"),
        ([[5 + 2**32]], None, "Token ids must be 0 to 15, but go from 4294967301 to 4294967301"),
        (np.zeros((1, 0), int), None, "There are no tokens: they are [1, 0]"),
        ([[1, 2]], [[0.0, -np.inf]], "mask must hold 1 for tokens and 0 for padding"),
        ([[1, 2]], [[2, 2]], "mask must hold 1 for tokens and 0 for padding"),
    ],
)
def test_tokens_and_masks_that_would_be_misread(language, tokens, mask, words):
    with pytest.raises(ValueError) as error:
        language.logits(tokens, mask)
    assert words in str(error.value)


def test_prompts_with_holes_and_steps_that_are_no_number(language):
    with pytest.raises(ValueError, match="padded on the left"):
        language.greedy([[1, 2, 3]], [[1, 0, 1]], steps=1)
    with pytest.raises(ValueError, match=r"steps must be a whole number, but is 2\.5"):
        language.greedy([[1, 2]], steps=2.5)
    with pytest.raises(ValueError, match=r"stop must be the id of a token, but is 1\.5"):
        language.greedy([[1, 2]], steps=1, stop=1.5)
    with pytest.raises(ValueError, match="mask has rows of zeros alone"):
        language.greedy([[1, 2]], [[0, 0]], steps=1)


@pytest.mark.parametrize("kind", [np.int64, np.int32, bool])
def test_images_of_a_type_that_says_nothing(encoder, model, kind):
    """Neither bytes nor normalised."""
    words = "of uint8, or floats that are normalised already, but are of type"
    with pytest.raises(ValueError, match=words):
        encoder.features(np.ones((1, 8, 8, 3), kind))
    with pytest.raises(ValueError, match=words):
        model.logits(TOKENS, images=np.ones((2, 2, 8, 8, 3), kind))


def test_a_model_is_printed_in_a_line(language):
    assert repr(language).startswith("Model(Decoder, 1,048 weights, float32, LanguageConfig(vocab_size=16,")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json is a file; give the folder that holds it"):
        load(tmp_path / "config.json")
