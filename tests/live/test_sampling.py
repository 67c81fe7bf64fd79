"""Schedules, samplers and tokenizers of the engine equal the course's, number by number."""

import pytest
import torch

from helpers.data.captions import VOCABULARY, tokenize
from helpers.diffusion import DDPMPath, Denoised, FlowPath, time_grid
from helpers.diffusion.samplers import run_sampler
from helpers.sd1.schedule import Schedule
from helpers.text.bpe import BytePairTokenizer
from helpers.text.contrastive import CLIP
from pages.live.node import Engine

STEPS = (1, 2, 7, 12, 50)
SAMPLERS = ("ddim", "euler", "heun", "dpm_solver_pp_2m")
PATHS = [
    ("new FlowPath()", FlowPath()),
    ("new FlowPath(3)", FlowPath(3)),
    ("new ScaledLinearPath()", DDPMPath.scaled_linear()),
]
TEXTS = [
    "a striped orange cat with green eyes on a blue background",
    "",
    "  A  CAT,\n and a dog's 17 tongues… ",
    "Ünïcödé, 日本語 and 🐈 😺😺",
    "don't we'll they've <|endoftext|> zzz",
    "x" * 40,
    "tabby tiger " * 12,
]


@pytest.mark.parametrize("steps", STEPS)
def test_times(steps: int, engine: Engine) -> None:
    torch.testing.assert_close(engine(f"new FlowPath().times({steps})"), time_grid(steps), atol=1e-7, rtol=0)
    sd1 = Schedule().times(steps)
    torch.testing.assert_close(engine(f"new ScaledLinearPath().times({steps})"), sd1, atol=0, rtol=0)


@pytest.mark.parametrize(("ours", "theirs"), PATHS)
def test_coefficients(ours: str, theirs: FlowPath | DDPMPath, engine: Engine) -> None:
    t = torch.linspace(0, 1, 257)
    alpha, sigma = theirs.alpha_sigma(t)
    pairs = engine(f"Float32Array.from(Array.from(t).flatMap((t) => {ours}.alphaSigma(t)))", t=t).view(-1, 2)
    torch.testing.assert_close(pairs, torch.stack([alpha, sigma], dim=1), atol=1e-7, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("ours", "theirs"), PATHS)
def test_samplers(sampler: str, ours: str, theirs: FlowPath | DDPMPath, engine: Engine) -> None:
    """A denoiser that is not linear and depends on time: every state and every estimate is the same."""

    def denoise(x: torch.Tensor, t: float) -> Denoised:
        x0 = torch.tanh(x * (1 - t / 2)) / 2
        alpha, sigma = theirs.alpha_sigma(t)
        return Denoised(x0, (x - alpha * x0) / sigma.clamp(min=1e-3))

    code = f"""
      const path = {ours};
      const denoise = (x, t) => {{
        const [alpha, sigma] = path.alphaSigma(t);
        return convertPrediction("x0", x.map((v) => Math.tanh(v * (1 - t / 2)) / 2), x, alpha, sigma);
      }};
      const rows = [];
      for (const step of SAMPLERS["{sampler}"](denoise, x, times, path)) rows.push(step.t, ...step.x, ...step.x0);
      return Float32Array.from(rows);"""
    x = torch.randn(16, generator=torch.Generator().manual_seed(0))
    times = time_grid(9)
    states = run_sampler(sampler, denoise, x, times, theirs)
    expected = torch.stack([torch.cat([torch.tensor([step.t]), step.x, step.x0]) for step in states])
    torch.testing.assert_close(engine(code, x=x, times=times).view(expected.shape), expected, atol=2e-5, rtol=0)


def test_times_that_do_not_decrease_are_refused(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="times must decrease"):
        engine("[...euler(null, new Float32Array(1), [0, 1], new FlowPath())]")


def test_word_tokenizer(engine: Engine) -> None:
    captions = ["", "A Cat, with its tongue out.", "a spotted grey dog with blue eyes on a yellow background"]
    code = "texts.map((text) => new WordTokenizer(vocabulary, 18).encode(text))"
    assert engine(code, texts=captions, vocabulary=list(VOCABULARY)) == tokenize(captions).tolist()


@pytest.mark.parametrize(
    ("text", "message"), [("a purpel cat", "purpel"), ("cat " * 19, "at most 18"), ("<pad>", "<pad>")]
)
def test_a_caption_that_cannot_be_encoded_is_refused(text: str, message: str, engine: Engine) -> None:
    with pytest.raises(RuntimeError, match=message):
        engine("new WordTokenizer(vocabulary, 18).encode(text)", text=text, vocabulary=list(VOCABULARY))
    with pytest.raises(ValueError):
        tokenize([text])


@pytest.fixture(scope="module")
def bpe() -> BytePairTokenizer:
    return CLIP.from_weights("clip")[1]


@pytest.mark.filterwarnings("ignore:a prompt holds")
def test_byte_pair_tokenizer(bpe: BytePairTokenizer, engine: Engine) -> None:
    tokenizer = {"merges": bpe.merges, "length": bpe.length, "padding": bpe.pad_id}
    code = "new BytePairTokenizer(tokenizer)"
    assert engine(f"{code}.vocabulary", tokenizer=tokenizer) == bpe.vocabulary
    ids = engine(f"texts.map((text) => {code}.encode(text))", tokenizer=tokenizer, texts=TEXTS)
    assert ids == bpe(TEXTS).tolist()
