"""Every variant's loss against another variant, a closed form, a limit or samples, and against its known mistake."""

import math

import pytest
import torch
from torch.distributions import Categorical, Gamma, Independent, MixtureSameFamily, Normal

from helpers.autoencoders.zoo import codes_and_priors
from helpers.autoencoders.zoo.base import DECODER_STD, VAE, Batch
from helpers.autoencoders.zoo.compare import VARIANTS, build_variant
from helpers.autoencoders.zoo.divergences import aggregate_posterior_log_density, gaussian_kl, log_gaussian, mmd


def batch(count=16, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1
    return Batch(x, torch.arange(count) % 3, torch.Generator().manual_seed(seed + 1), **more)


def with_posterior(model, mean, logvar):
    """The model with an encoder that outputs this posterior for every image."""
    model.posterior = lambda batch: (mean, logvar)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_it_computes_and_learns(name):
    model = build_variant(name)
    inputs = batch()
    terms = model(inputs)
    assert terms.error.shape == terms.penalty.shape == (16,) and (terms.error + terms.penalty).isfinite().all()
    (terms.error + terms.penalty).mean().backward()
    still = [part for part, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not still, f"no gradient reaches {still}"


@pytest.mark.parametrize("name", VARIANTS)
def test_it_generates_and_embeds(name):
    model = build_variant(name).eval()
    first, second = (model.generate(6, torch.Generator().manual_seed(0)) for _ in range(2))
    assert first.shape == (6, 3, 32, 32) and torch.equal(first, second)
    assert model.embed(batch()).shape[0] == 16 and model.rate(batch()).shape == (16,)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_seed_gives_the_same_loss(name):
    def loss():
        torch.manual_seed(1)  # as a training step does: the first codes of VQ are chosen by it
        return build_variant(name, seed=3)(batch())

    first = loss()
    second = loss()
    assert torch.equal(first.error, second.error) and torch.equal(first.penalty, second.penalty)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_names_its_paper_and_formula(name):
    assert any(character.isdigit() for character in VARIANTS[name].paper) and "x" in VARIANTS[name].formula


def test_unknown_names_and_hyperparameters_are_refused():
    with pytest.raises(ValueError, match="no variant 'GAN': choose one of AE, VAE"):
        build_variant("GAN")
    with pytest.raises(ValueError, match="AE has no hyperparameter 'beta'; it has: none"):
        build_variant("AE", beta=2)
    with pytest.raises(ValueError, match="VQ has no hyperparameter 'K'; it has: weight"):
        build_variant("VQ", K=128)
    with pytest.raises(ValueError, match="conditional has no hyperparameter 'in_channels'"):
        build_variant("conditional", in_channels=3)


# --- weights of the rate --------------------------------------------------------------------------------------------


def test_beta_of_one_is_the_vae():
    posterior = torch.full((16, 16), 2.0), torch.full((16, 16), -1.0)
    kl = gaussian_kl(*posterior).sum(1)
    cases = [
        ("beta", {"beta": 1.0}, 1),
        ("beta", {}, 8),
        ("Info", {"alpha": 0.0, "weight": 1.0}, 1),
        ("DIP-I", {"diagonal": 0.0, "off_diagonal": 0.0}, 1),
    ]
    for name, setting, times in cases:
        torch.testing.assert_close(
            with_posterior(build_variant(name, **setting), *posterior)(batch()).penalty, times * kl
        )


@pytest.mark.parametrize("name", ["VAE", "conditional", "log-cosh", "MS-SSIM", "perceptual (DFC)"])
def test_the_rate_is_summed_over_the_code_not_averaged(name):
    """And it has weight one, not 0.00025 beside a mean error, as in copied code, which gives no bound."""
    model = with_posterior(build_variant(name), torch.full((16, 16), 2.0), torch.zeros(16, 16))
    assert model(batch()).penalty.tolist() == pytest.approx([16 * 2.0] * 16)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("log-cosh", "MS-SSIM", "perceptual (DFC)")])
def test_the_error_is_a_sum_in_nats(name):
    inputs = batch()
    expected = 3072 * 0.01 / (2 * DECODER_STD**2)
    assert build_variant(name).error(inputs.x + 0.1, inputs).tolist() == pytest.approx([expected] * 16, rel=1e-4)


def test_capacity_holds_the_rate_at_its_target_from_both_sides():
    logvar = torch.zeros(16, 16)
    for nats, progress in ((25.0, 1.0), (12.5, 0.5)):
        model = with_posterior(build_variant("beta, capacity"), torch.full((16, 16), (2 * nats / 16) ** 0.5), logvar)
        assert model(batch(progress=progress)).penalty[0].item() == pytest.approx(0, abs=1e-3)
    below = (
        with_posterior(build_variant("beta, capacity"), torch.zeros(16, 16), logvar)(batch(progress=1.0))
        .penalty[0]
        .item()
    )
    assert below == pytest.approx(30 * 25)  # an absolute value, not the difference: too low a rate costs as well


def test_total_correlation_with_weight_one_is_the_sampled_rate():
    model = build_variant("beta-TC", beta=1.0)
    inputs = batch()
    posterior = 2 * torch.randn(16, 16, generator=inputs.generator), torch.full((16, 16), -1.0)
    z = model.reparameterize(posterior, torch.Generator().manual_seed(5))
    sampled = (log_gaussian(z, *posterior) - log_gaussian(z)).sum(1)
    torch.testing.assert_close(model.penalty(posterior, z, inputs), sampled, atol=1e-3, rtol=1e-4)
    together, apart = aggregate_posterior_log_density(z, *posterior, inputs.dataset_size)
    model.beta = 5.0  # which is the total correlation's, and no other term's
    extra = model.penalty(posterior, z, inputs) - sampled
    torch.testing.assert_close(extra, 4 * (together - apart), atol=2e-3, rtol=1e-3)


def test_dip_asks_for_unit_covariance():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 16, generator=generator)
    factor = torch.linalg.cholesky(z.T.cov(correction=0))
    white = torch.linalg.solve_triangular(factor, (z - z.mean(0)).T, upper=False).T
    none = torch.full_like(white, -20.0)
    for name in ("DIP-I", "DIP-II"):
        extra = build_variant(name).penalty((white, none), white, batch()) - gaussian_kl(white, none).sum(1)
        assert extra.abs().max() < 1e-2
    noisy = torch.zeros_like(white)  # with unit noise the codes' variance is 2: only the second form minds
    extra = [
        build_variant(name).penalty((white, noisy), white, batch())[0] - gaussian_kl(white, noisy).sum(1)[0]
        for name in ("DIP-I", "DIP-II")
    ]
    assert extra[0].item() == pytest.approx(0, abs=0.01) and extra[1].item() == pytest.approx(50 * 16, rel=0.01)
    wide = torch.full_like(white, math.log(3))  # a variance of 3, not of exp(2 log 3)
    extra = build_variant("DIP-II").penalty((white, wide), white, batch())[0] - gaussian_kl(white, wide).sum(1)[0]
    assert extra.item() == pytest.approx(50 * 16 * 9, rel=0.01)


def test_factor_adds_the_discriminators_log_ratio():
    """With a plus: the encoder shall bring it down."""
    z = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    posterior = (z, torch.zeros_like(z))
    model = build_variant("Factor")
    more = model.penalty(posterior, z, batch()) - build_variant("Factor", gamma=0.0).penalty(posterior, z, batch())
    torch.testing.assert_close(more, 8 * model.discriminator(z)[:, 0], atol=1e-4, rtol=1e-4)


def test_factor_keeps_discriminator_and_encoder_apart():
    """The discriminator's loss gives the encoder no gradient, and the reverse."""
    gradients = {}
    for gamma in (0.0, 8.0):
        model = build_variant("Factor", gamma=gamma)
        terms = model(batch())
        (terms.error + terms.penalty).mean().backward()
        gradients[gamma] = {name: parameter.grad for name, parameter in model.named_parameters()}
    plain = build_variant("VAE")
    terms = plain(batch())
    (terms.error + terms.penalty).mean().backward()
    torch.testing.assert_close(gradients[0.0]["encoder.1.weight"], plain.encoder[1].weight.grad)
    for name in gradients[0.0]:
        same = torch.allclose(gradients[0.0][name], gradients[8.0][name])
        assert same == (not name.startswith("encoder")), name


def test_factors_discriminator_estimates_the_total_correlation():
    """Trained on a Gaussian with correlation 0.9, its log-ratio tends to -log(1 - 0.81) / 2."""
    torch.manual_seed(0)
    model = build_variant("Factor", gamma=0.0)
    discriminator = model.discriminator
    optimizer = torch.optim.Adam(model.discriminator.parameters(), 2e-3)
    for _ in range(400):
        z = torch.randn(512, 16)
        z[:, 1] = 0.9 * z[:, 0] + (1 - 0.81) ** 0.5 * z[:, 1]
        loss = model.penalty((z, torch.zeros_like(z)), z, batch()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert discriminator(z).mean().item() == pytest.approx(-0.5 * math.log(1 - 0.81), abs=0.3)


# --- distances of all codes from the prior --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["WAE-MMD, IMQ", "WAE-MMD, RBF", "sliced WAE", "Info"])
def test_the_distance_does_not_fade_with_the_batch(name):
    """Dividing a mean over pairs by B (B - 1), as copied, makes the penalty vanish: it must be the same for any B."""
    model = build_variant(name)
    penalties = []
    for count in (64, 512):
        z = 3 + torch.randn(count, 16, generator=torch.Generator().manual_seed(count))
        posterior = (z,) if model.params_per_dim == 1 else (z, torch.full_like(z, -20.0))
        rate = model.kl(posterior).mean() * 0.5 if name == "Info" else 0
        penalties.append((model.penalty(posterior, z, batch()).mean() - rate).item())
    assert penalties[0] == pytest.approx(penalties[1], rel=0.1) and penalties[0] > 50


def test_wae_is_its_weight_times_the_discrepancy():
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    prior = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    penalty = build_variant("WAE-MMD, RBF").penalty((z,), z, batch(seed=0))
    assert penalty.item() == pytest.approx(1000 * mmd(z, prior).item(), rel=1e-4)


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["IWAE", "MIWAE"])
def test_one_importance_sample_is_the_elbo(name):
    model = build_variant(name, samples=1, means=1000)
    inputs = batch(2)
    model.decode = lambda z, batch=None: torch.zeros(len(z), 3, 32, 32)
    posterior = torch.ones(2, 16), torch.full((2, 16), -1.0)
    terms = with_posterior(model, *posterior)(inputs)
    known = inputs.x.square().flatten(1).sum(1) / (2 * DECODER_STD**2) + gaussian_kl(*posterior).sum(1)
    torch.testing.assert_close(terms.error + terms.penalty, known, atol=0.6, rtol=0)


@pytest.mark.parametrize("name", ["IWAE", "MIWAE"])
def test_more_importance_samples_tighten_the_bound(name):
    """The published code weighs losses, not likelihoods, by their softmax: more samples then raise its loss."""
    inputs = batch(8)
    losses = []
    for samples in (1, 5, 50):
        terms = [build_variant(name, samples=samples)(inputs) for _ in range(20)]
        losses.append(torch.stack([(t.error + t.penalty).mean() for t in terms]).mean().item())
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("name", ["IWAE", "MIWAE"])
def test_the_bound_is_the_log_likelihood_where_that_is_known(name):
    """A decoder that ignores its code: log p(x) is the error, whatever the posterior, once there are enough samples."""
    model = build_variant(name, samples=2000)
    inputs = batch(2)
    model.decode = lambda z, batch=None: torch.zeros(len(z), 3, 32, 32)
    terms = with_posterior(model, torch.full((2, 16), 0.3), torch.full((2, 16), -0.2))(inputs)
    known = inputs.x.square().flatten(1).sum(1) / (2 * DECODER_STD**2)
    torch.testing.assert_close(terms.error + terms.penalty, known, atol=0.3, rtol=0)


def test_several_bounds_are_averaged_not_joined():
    model = build_variant("MIWAE", means=50, samples=1)
    inputs = batch(8)
    iwae = build_variant("IWAE", means=1, samples=50)
    joined, averaged = ((t.error + t.penalty).mean().item() for t in (iwae(inputs), model(inputs)))
    assert averaged > joined + 1


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AE", "log-cosh", "MS-SSIM", "perceptual (DFC)"])
def test_the_error_of_a_perfect_copy_is_nothing_and_grows(name):
    model = build_variant(name).eval()
    inputs = batch(8)
    smooth = torch.nn.functional.interpolate(inputs.x[:, :, ::8, ::8], scale_factor=8, mode="bilinear")
    inputs = inputs._replace(x=smooth)
    errors = [
        model.error(smooth + off * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1)), inputs)
        for off in (0, 0.05, 0.2)
    ]
    assert errors[0].abs().max() < 1e-2 and (errors[0] < errors[1]).all() and (errors[1] < errors[2]).all()


def test_other_errors_have_the_right_size():
    inputs = batch()
    expected = 5 * 3072 * math.log(math.cosh(1)) / 10
    for off in (0.1, -0.1):
        assert build_variant("log-cosh").error(inputs.x + off, inputs)[0].item() == pytest.approx(expected, rel=1e-3)
    flat = inputs._replace(x=torch.full_like(inputs.x, 0.5))  # 0.75 beside 0.5 in [0, 1]: lightness is all that differs
    light = (2 * 0.75 * 0.5 + 1e-4) / (0.75**2 + 0.5**2 + 1e-4)
    error = build_variant("MS-SSIM").error(torch.zeros_like(flat.x), flat)[0].item()
    assert error == pytest.approx(600 * (1 - light**0.3), rel=0.02)
    model = build_variant("perceptual (DFC)")
    model.features = lambda x: [x, 2 * x]
    feature_error = model.error(inputs.x + 0.1, inputs)[0].item() - 384
    assert feature_error == pytest.approx(model.weight * 0.05, rel=1e-2)


def test_the_stand_in_for_vgg_is_not_trained():
    names = [name for name, _ in build_variant("perceptual (DFC)").named_parameters()]
    assert names == [name for name, _ in build_variant("VAE").named_parameters()]


# --- other codes ----------------------------------------------------------------------------------------------------


def test_a_choice_costs_at_most_log_k():
    model = build_variant("categorical")
    inputs = batch()
    sure = torch.full((16, 16, 16), -50.0)
    sure[..., 0] = 50
    assert model.penalty((sure,), None, inputs).tolist() == pytest.approx([16 * math.log(16)] * 16)
    assert model.penalty((torch.zeros_like(sure),), None, inputs).tolist() == pytest.approx([0] * 16, abs=1e-4)


def test_encoding_does_not_change_the_temperature():
    """Its annealing depends on the training's progress, and not on which batch was encoded last."""
    model = build_variant("categorical")
    posterior = model.posterior(batch(progress=1.0))
    z = model.reparameterize(posterior, torch.Generator().manual_seed(0))
    model.posterior(batch(progress=0.0))
    torch.testing.assert_close(model.reparameterize(posterior, torch.Generator().manual_seed(0)), z)
    warm = model.reparameterize(posterior, torch.Generator().manual_seed(0), progress=0.0)
    assert warm.max() < z.max() and not torch.allclose(warm, z)


def test_joint_holds_both_capacities():
    model = build_variant("joint")
    inputs = batch(progress=1.0)
    mean = torch.full((16, 16), (2 * 25.0 / 16) ** 0.5)
    sure = 50 * torch.nn.functional.one_hot(torch.arange(16) % 3, 3).float()
    assert model.penalty((mean, torch.zeros(16, 16), sure), None, inputs).item() == pytest.approx(0, abs=1e-2)
    unsure = model.penalty((mean, torch.zeros(16, 16), 0 * sure), None, inputs).item()
    assert unsure == pytest.approx(30 * math.log(3), rel=1e-3)


def test_gamma_draws_have_the_right_moments_and_gradient():
    """Mean and variance of Gamma(a, 1) are a; the mean's derivative by a is 1."""
    shape = torch.tensor([0.3, 1.0, 4.0]).expand(200_000, 3).clone().requires_grad_()
    z = codes_and_priors.sample_gamma(shape, 6, torch.Generator().manual_seed(0))
    assert z.mean(0).tolist() == pytest.approx([0.3, 1, 4], rel=0.03)
    assert z.var(0).tolist() == pytest.approx([0.3, 1, 4], rel=0.05)
    z.sum().backward()
    assert shape.grad.mean(0).tolist() == pytest.approx([1, 1, 1], rel=0.05)


def test_gamma_codes_and_their_rate():
    model = build_variant("gamma")
    generator = torch.Generator().manual_seed(0)
    shape = torch.full((20_000, 16), 3.0)
    rate = torch.full((20_000, 16), 2.0)
    z = model.reparameterize((shape, rate), generator)
    assert z.mean().item() == pytest.approx(1.5, rel=0.01) and z.var().item() == pytest.approx(0.75, rel=0.03)
    prior = Gamma(torch.tensor(2.0), torch.tensor(1.0))
    sampled = (Gamma(shape, rate).log_prob(z) - prior.log_prob(z)).sum(1).mean().item()
    assert model.penalty((shape, rate), z, batch())[0].item() == pytest.approx(sampled, rel=0.03)
    samples = model.prior(20_000, generator)
    assert samples.mean().item() == pytest.approx(2, rel=0.01) and samples.var().item() == pytest.approx(2, rel=0.03)


def test_vq_pulls_the_encoder_with_a_quarter():
    model = build_variant("VQ").eval()
    inputs = batch()
    tokens = model.encoder(inputs.x).unflatten(1, (16, -1))
    quantized = model.quantizer(tokens)
    gap = (tokens - model.quantizer.decode(quantized.indices)).square().mean((1, 2))
    torch.testing.assert_close(model(inputs).penalty, 300 * 0.25 * gap)
    model(inputs).penalty.mean().backward()
    away = (tokens - model.quantizer.decode(quantized.indices)).detach().flatten(1).mean(0)
    torch.testing.assert_close(model.encoder[-1].bias.grad, 300 * 0.25 * 2 * away / 128)


def test_conditional_decoders_know_the_species():
    model = build_variant("conditional")
    inputs = batch(6)
    z = torch.zeros(6, 16)
    decoded = model.decode(z, inputs)
    assert torch.allclose(decoded[0], decoded[3]) and not torch.allclose(decoded[0], decoded[1])
    other = inputs._replace(labels=(inputs.labels + 1) % 3)
    assert not torch.allclose(model.posterior(inputs)[0], model.posterior(other)[0])


# --- other priors ---------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ["hierarchical", "ladder"])
def test_the_rate_of_two_layers_agrees_with_sampling(name):
    torch.manual_seed(0)
    model = build_variant(name)
    four = batch(4)
    draws = 1000
    for part in (model.upper[-1], model.lower[-1], model.below[-1]):
        part.weight.data *= 5
    many = four._replace(x=four.x.repeat(draws, 1, 1, 1), labels=four.labels.repeat(draws))
    *normal, features = (part.repeat(draws, 1) for part in model.posterior(four))
    model.posterior = lambda _: (*normal, features)
    sampled = []
    for _ in range(3):
        upper = VAE.reparameterize(model, normal, many.generator)
        lower_prior = model.lower_prior(upper)
        lower = model.lower_posterior(features, upper, lower_prior)
        z = VAE.reparameterize(model, lower, many.generator)
        sampled.append(
            (
                log_gaussian(upper, *normal)
                - log_gaussian(upper)
                + log_gaussian(z, *lower)
                - log_gaussian(z, *lower_prior)
            )
            .sum(1)
            .unflatten(0, (draws, 4))
        )
    rates = model(many).penalty.unflatten(0, (draws, 4)).mean(0)
    torch.testing.assert_close(rates, torch.cat(sampled).mean(0), rtol=0.05, atol=0.05)


def test_the_ladder_weighs_by_certainty():
    model = build_variant("ladder")
    lower_prior = torch.full((2, 16), 1.0), torch.zeros(2, 16)
    for logvar, expected in ((0.0, 2.0), (6.0, 1.0), (-12.0, 3.0)):
        seen = torch.cat([torch.full((2, 16), 3.0), torch.full((2, 16), logvar)], dim=1)
        model.lower.forward = lambda features, seen=seen: seen
        mean, variance = model.lower_posterior(None, None, lower_prior)
        assert mean[0, 0].item() == pytest.approx(expected, abs=0.01) and variance.max() <= 0


def test_a_prior_whose_pseudo_input_is_the_image_costs_nothing():
    model = build_variant("VampPrior")
    inputs = batch(1)
    model.K = 1
    model.pseudo_inputs = torch.nn.Parameter(inputs.x.clone())
    assert model(inputs).penalty.item() == pytest.approx(0, abs=1e-3)


def test_vamp_is_a_mixture_not_a_sum():
    """Many times the same component is that component: the 1 / K must be inside the logarithm."""
    model = build_variant("VampPrior")
    inputs = batch(1)
    model.pseudo_inputs = torch.nn.Parameter(inputs.x.clone().expand(32, -1, -1, -1))
    assert model(inputs).penalty.item() == pytest.approx(0, abs=1e-3)


def test_vamp_is_pytorchs_mixture():
    model = build_variant("VampPrior")
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(2, 32, 16, generator=generator)
    posterior = torch.randn(2, 4, 16, generator=generator)
    model.components = lambda: tuple(parts)
    z = model.reparameterize(tuple(posterior), generator)
    mixture = MixtureSameFamily(Categorical(torch.ones(32)), normal(*parts))
    expected = normal(*posterior).log_prob(z) - mixture.log_prob(z)
    torch.testing.assert_close(model.penalty(tuple(posterior), z, batch(4)), expected, atol=1e-3, rtol=1e-4)
    model.components = lambda: (torch.full((32, 16), 10.0), torch.full((32, 16), -20.0))
    assert model.prior(8, generator).mean().item() == pytest.approx(10, abs=0.01)


def normal(mean, logvar):
    return Independent(Normal(mean, (0.5 * logvar).exp()), 1)


def test_the_second_stage_does_not_move_the_first():
    model = build_variant("two-stage")
    plain = build_variant("VAE")
    for some in (model, plain):
        terms = some(batch())
        (terms.error + terms.penalty).mean().backward()
    torch.testing.assert_close(model.encoder[1].weight.grad, plain.encoder[1].weight.grad)


def test_the_second_stage_is_a_bound_with_a_learned_spread():
    """With normal latents and a decoder that outputs 0, -log p(z | u) is the entropy of the prior."""
    model = build_variant("two-stage")
    model.down.forward = lambda u: torch.zeros(len(u), 16)
    model.up.forward = lambda z: torch.zeros(len(z), 32)
    z = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    posterior = torch.zeros_like(z), torch.zeros_like(z)
    extra = (model.penalty(posterior, z, batch()) - model.kl(posterior)).mean()
    assert extra.item() == pytest.approx(16 * 0.5 * (1 + math.log(2 * math.pi)), rel=0.01)
