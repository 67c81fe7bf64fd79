"""Diagrams of notebooks 02 to 04: the two Markov chains, one step of three solvers, guidance as vectors."""

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from helpers.data.toy_2d import Points, clover
from helpers.diffusion import DDPMPath
from helpers.show.diagrams import LINE, SOFT, Canvas
from helpers.show.figures import INK, to_rgb_array
from pages.pictures.drawing import BLUE, GREEN, ORANGE, WIDTH, frame_image, synthetic_face, write

CHAIN_ALT = (
    "A synthetic cat in six states, from the clean image on the left to pure noise on the right. Arrows above lead "
    "from left to right: the forward process q, which is fixed and adds a little noise in every step. Arrows below "
    "lead from right to left: the reverse process p, which is learned and removes a little noise in every step."
)
STATES = (0, 40, 100, 200, 350, 1000)  # steps of the chain that are shown
TILE = 84
GAP = 34


def noisy_states(size: int = 56, seed: int = 0) -> list[np.ndarray]:
    """A synthetic face after some steps of DDPM's forward process, all with the same noise, uint8 (3, size, size)."""
    face = synthetic_face(size, 4, species="cat", fur="orange", background="blue", eyes="green")
    x0 = torch.from_numpy(face).float() / 127.5 - 1
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    path = DDPMPath.linear()
    states = [path.add_noise(x0, noise, k / len(path)) for k in STATES]
    return [to_rgb_array(x.clamp(-1, 1))[0].transpose(2, 0, 1) for x in states]


def markov_chain() -> Canvas:
    """The forward process above, the reverse process below, and six of its states between them."""
    canvas = Canvas(WIDTH, 254, CHAIN_ALT)
    forward = r"forward process  $q(x_k\,|\,x_{k-1})$:  fixed, every step adds a little noise"
    reverse = r"reverse process  $p_\theta(x_{k-1}\,|\,x_k)$:  learned, every step removes a little noise"
    write(canvas, WIDTH / 2, 20, forward, 11, ORANGE)
    write(canvas, WIDTH / 2, 236, reverse, 11, BLUE)
    lefts = [23 + i * (TILE + GAP) for i in range(len(STATES))]
    top = 70
    for left, image, k in zip(lefts, noisy_states(), STATES, strict=True):
        canvas.image(left, top, TILE, TILE, image)
        frame_image(canvas, left, top, TILE, TILE, SOFT, 1)
        name = {0: ", data", STATES[-1]: ", noise"}.get(k, "")
        write(canvas, left + TILE / 2, top + TILE + 14, f"$x_{{{k}}}${name}", 10)
    for left, right in zip(lefts, lefts[1:], strict=False):
        start = left + TILE / 2 + 8
        end = right + TILE / 2 - 8
        _bent(canvas, (start, top - 5), (end, top - 5), ORANGE)
        _bent(canvas, (end, top + TILE + 28), (start, top + TILE + 28), BLUE)
    return canvas


def _bent(canvas: Canvas, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """A curved arrow: above the line from left to right, below it from right to left."""
    arrow = FancyArrowPatch(
        start,
        end,
        connectionstyle="arc3,rad=-0.28",
        arrowstyle="-|>",
        mutation_scale=13,
        linewidth=1.8,
        color=colour,
        shrinkA=0,
        shrinkB=0,
        zorder=5,
    )
    canvas.axes.add_patch(arrow)


GUIDANCE_ALT = (
    "Points of a clover with three leaves. From the unconditional prediction, near the middle, an arrow leads to the "
    "conditional prediction, on the upper leaf. Guidance continues in the same direction: at scale 2 the point is "
    "still on the leaf, at scale 4 it lies beyond the tip."
)
NOISY_POINT = (0.42, 0.2)
NOISY_PATH = (0.6, 0.8)  # alpha and sigma of the noisy point
LEAF = 0
SCALES = (0, 1, 2, 4)
CARD: dict[str, Any] = {
    "facecolor": "white",
    "alpha": 0.75,
    "edgecolor": "none",
    "pad": 1.5,
}  # behind a label that lies on points


def posterior_mean(points: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
    """The best prediction of the clean data: the average of all points, weighted by how well they fit x_t (2,)."""
    log_weights = -((x_t - alpha * points) ** 2).sum(dim=1) / (2 * sigma**2)
    return torch.softmax(log_weights, dim=0) @ points


def guided_predictions(cloud: Points) -> dict[int, np.ndarray]:
    """Scale -> guided prediction, from the exact conditional and unconditional predictions at one noisy point."""
    x_t = torch.tensor(NOISY_POINT)
    unconditional = posterior_mean(cloud.xy, x_t, *NOISY_PATH)
    conditional = posterior_mean(cloud.xy[cloud.labels == LEAF], x_t, *NOISY_PATH)
    return {scale: (unconditional + scale * (conditional - unconditional)).numpy() for scale in SCALES}


def guidance() -> Canvas:
    """Classifier-free guidance in the plane of the clover."""
    canvas = Canvas(WIDTH, 364, GUIDANCE_ALT)
    cloud = clover(1500)
    axes = canvas.figure.add_axes((0.0, 0.0, 0.53, 1.0))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set(xlim=(-1.0, 1.0), ylim=(-0.7, 1.56))
    chosen = cloud.labels == LEAF
    for part, colour in ((~chosen, "#c5ccd3"), (chosen, "#9cc6e6")):
        axes.scatter(cloud.xy[part, 0], cloud.xy[part, 1], s=5, color=colour, linewidths=0)
    predictions = guided_predictions(cloud)
    _vector(axes, predictions[0], predictions[1], BLUE)
    _vector(axes, predictions[1], predictions[SCALES[-1]], ORANGE, dashed=True)
    names = {0: "unconditional", 1: "conditional", 2: "guided", 4: "guided"}
    for scale, point in predictions.items():
        axes.plot(*point, "o", ms=8, mfc=ORANGE if scale > 1 else BLUE, mec="white", mew=1.2, zorder=6)
        text = f"scale {scale}: {names[scale]}"
        axes.text(point[0] + 0.1, point[1], text, size=10, va="center", zorder=7, color=INK, bbox=CARD)
    axes.plot(*NOISY_POINT, "X", ms=9, mfc=INK, mec="white", mew=1.2, zorder=6)
    axes.text(NOISY_POINT[0] + 0.08, NOISY_POINT[1] - 0.01, "$x_t$", size=12, va="center", zorder=7)
    _guidance_text(canvas)
    return canvas


def _vector(axes: Axes, start: np.ndarray, end: np.ndarray, colour: str, dashed: bool = False) -> None:
    """An arrow from one prediction to another."""
    axes.plot(*np.stack([start, end]).T, color=colour, lw=2.4, ls=(0, (3, 1.5)) if dashed else "solid", zorder=4)
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "lw": 0,
        "color": colour,
        "shrinkA": 0,
        "shrinkB": 4,
        "mutation_scale": 18,
    }
    axes.annotate("", xy=(end[0], end[1]), xytext=(start[0], start[1]), arrowprops=style, zorder=5)


def _guidance_text(canvas: Canvas) -> None:
    x = 396
    lines = [
        (62, "Each prediction is an average of the points", INK),
        (82, "that may have become $x_t$ with noise:", INK),
        (112, r"of all leaves:  $\hat x_\mathrm{uncond}$", BLUE),
        (136, r"of the upper leaf only:  $\hat x_\mathrm{cond}$", BLUE),
        (180, "Guidance extrapolates their difference:", INK),
        (252, "A moderate scale leads to typical points of", INK),
        (272, "the leaf, a large one leads beyond the data.", INK),
    ]
    for y, text, colour in lines:
        write(canvas, x, y, text, 9, colour, align="left")
    formula = r"$\hat x_\mathrm{uncond} + \mathrm{scale}\cdot(\hat x_\mathrm{cond} - \hat x_\mathrm{uncond})$"
    write(canvas, x, 212, formula, 11, ORANGE, align="left")


SOLVERS_ALT = (
    "Three panels with the same curved path from more noise to less, and one large step of a solver from the same "
    "point. Euler follows the tangent and ends well beside the path. Heun averages the slopes at both ends of a trial "
    "step and ends almost on it. DPM-Solver++ (2M) uses the prediction of the step before and ends close to it."
)
TIMES = (0.8, 0.6, 0.3)  # the step before, the start and the end of the step
START = 1.0  # where the path is at the first of these times
CENTRES = (-1.0, 1.0)  # of the data, a mixture of two narrow Gaussians on a line
DATA_STD = 0.3


def predict_x0(x: float, t: float) -> float:
    """The exact denoiser on the straight path, alpha = 1 - t and sigma = t."""
    alpha = 1 - t
    variance = (alpha * DATA_STD) ** 2 + t**2
    log_weights = np.array([-((x - alpha * centre) ** 2) / (2 * variance) for centre in CENTRES])
    means = [centre + alpha * DATA_STD**2 * (x - alpha * centre) / variance for centre in CENTRES]
    weights = np.exp(log_weights - log_weights.max())
    return float(weights @ means / weights.sum())


def slope(x: float, t: float) -> float:
    """dx/dt of the probability-flow ODE on the straight path."""
    return (x - predict_x0(x, t)) / t


def exact_path(x: float, start: float, end: float, parts: int = 300) -> np.ndarray:
    """The path through (start, x) by tiny midpoint steps: (parts + 1, 2) times and positions."""
    times = np.linspace(start, end, parts + 1)
    path = [x]
    for t, following in zip(times, times[1:], strict=False):
        middle = x + (following - t) / 2 * slope(x, t)
        x = x + (following - t) * slope(middle, (t + following) / 2)
        path.append(x)
    return np.stack([times, np.array(path)], axis=1)


class SolverStep(NamedTuple):
    """One step of a solver, as lines of (time, position)."""

    title: str
    cost: str
    curve: np.ndarray  # the step itself
    trial: np.ndarray | None = None  # a step that is taken back


def solver_steps(x: float, t: float, end: float, x0_before: float, t_before: float) -> list[SolverStep]:
    """The same step by Euler, Heun and DPM-Solver++ (2M)."""
    times = np.linspace(t, end, 40)
    first = slope(x, t)
    euler = np.stack([times, x + (times - t) * first], axis=1)
    mean_slope = (first + slope(euler[-1, 1], end)) / 2
    heun = np.stack([times, x + (times - t) * mean_slope], axis=1)
    log_snr = np.log((1 - times) / times)
    h_before = log_snr[0] - np.log((1 - t_before) / t_before)
    x0 = predict_x0(x, t)
    x0_middle = x0 + (log_snr - log_snr[0]) / (2 * h_before) * (x0 - x0_before)
    keep = times / t
    dpm = np.stack([times, keep * x + ((1 - times) - keep * (1 - t)) * x0_middle], axis=1)
    return [
        SolverStep("Euler, which is DDIM", "1 evaluation", euler),
        SolverStep("Heun", "2 evaluations", heun, euler),
        SolverStep("DPM-Solver++(2M)", "1 evaluation, 1 remembered", dpm),
    ]


def solvers() -> Canvas:
    """One large step of three solvers on the same curved path."""
    canvas = Canvas(WIDTH, 272, SOLVERS_ALT)
    t_before, t, end = TIMES
    whole = exact_path(START, t_before, 0.19)
    x = float(exact_path(START, t_before, t)[-1, 1])
    target = float(exact_path(x, t, end)[-1, 1])
    steps = solver_steps(x, t, end, predict_x0(START, t_before), t_before)
    for i, step in enumerate(steps):
        axes = canvas.figure.add_axes((0.02 + 0.328 * i, 0.17, 0.305, 0.61))
        _solver_panel(axes, step, whole, target)
        middle = (0.02 + 0.328 * i + 0.1525) * WIDTH
        write(canvas, middle, 20, step.title, 11, bold=True)
        write(canvas, middle, 42, step.cost, 9, LINE)
    write(canvas, WIDTH / 2, 258, "sampling runs to the right:  more noise → less noise", 9, LINE)
    return canvas


def _solver_panel(axes: Axes, step: SolverStep, whole: np.ndarray, target: float) -> None:
    t_before, t, end = TIMES
    axes.plot(*whole.T, color="#b4bcc5", lw=5, solid_capstyle="round", zorder=1)
    if step.trial is not None:
        axes.plot(*step.trial.T, color=BLUE, lw=1.6, ls=(0, (4, 3)), zorder=2)
        axes.plot(*step.trial[-1], "o", ms=7, mfc="white", mec=BLUE, mew=1.6, zorder=4)
        axes.text(step.trial[-1, 0] + 0.03, step.trial[-1, 1] - 0.02, "trial step", size=9, color=BLUE, ha="right")
    if "remembered" in step.cost:
        axes.plot(t_before, START, "o", ms=8, mfc="white", mec=GREEN, mew=1.8, zorder=4)
        axes.text(t_before - 0.012, START + 0.028, "remembered", size=9, color=GREEN, ha="left")
    axes.plot(*step.curve.T, color=BLUE, lw=2.2, zorder=3)
    axes.plot(*step.curve[0], "o", ms=8, color=BLUE, zorder=5)
    axes.plot(*step.curve[-1], "o", ms=8, color=BLUE, zorder=5)
    landed = step.curve[-1, 1]
    axes.plot([end, end], [landed, target], color=ORANGE, lw=2.6, zorder=4)
    axes.text(
        end - 0.025, (landed + target) / 2, f"error {abs(landed - target):.3f}", size=9, color=ORANGE, va="center"
    )
    axes.axvline(t, color="#e3e6ea", lw=1, zorder=0)
    axes.axvline(end, color="#e3e6ea", lw=1, zorder=0)
    axes.set(xlim=(0.85, 0.02), ylim=(0.77, 1.09), xticks=[t, end], yticks=[])
    axes.set_xticklabels(["$t$", "$t'$"], size=10)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
