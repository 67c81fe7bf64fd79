"""Diagrams show the shapes and sizes of a forward pass."""

import pytest
import torch
from torch import nn

from helpers.sd1.unet import UNet, UNetConfig
from helpers.show.diagrams import Canvas, draw_unet, shape_text, trace, unet_trace

SMALL = UNetConfig(width=16, multipliers=(1, 2), attention=(True, False), blocks=2, heads=2, text_width=8, groups=4)
INPUTS = torch.randn(1, 4, 8, 12), torch.tensor([3]), torch.randn(1, 5, 8)


def texts(canvas: Canvas) -> list[str]:
    return [text.get_text() for text in canvas.axes.texts]


def test_a_trace_lists_calls_in_order_with_their_shapes():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    calls = trace(model, torch.zeros(2, 3))
    assert [(call.class_name, call.output, call.parameters) for call in calls] == [
        ("Linear", (2, 3), 12),
        ("ReLU", (2, 3), 0),
        ("Linear", (2, 3), 12),
    ]
    assert not any(module._forward_hooks for module in model.modules()), "a trace leaves nothing behind"


def test_a_trace_costs_nothing_on_the_meta_device():
    with torch.device("meta"):
        unet = UNet(UNetConfig.v1())
        traced = unet_trace(unet, torch.zeros(1, 4, 64, 64), torch.zeros(1), torch.zeros(1, 77, 768))
    calls = [traced.stem, *sum(traced.down, []), *traced.middle, *sum(traced.up, []), traced.head]
    in_parts = sum(call.parameters for call in calls)
    outside = sum(p.numel() for part in (unet.time, unet.norm) for p in part.parameters())
    assert in_parts + outside == 859_520_964, "every parameter is in exactly one box"
    assert [call.output for call in traced.middle] == [(1, 1280, 8, 8)] * 3


def test_the_shown_numbers_are_those_of_a_forward_pass():
    unet = UNet(SMALL)
    shapes = {}

    def record(name: str):
        def hook(module, inputs, output):
            shapes[name] = tuple(output.shape)

        return hook

    for name, module in unet.named_modules():
        module.register_forward_hook(record(name))
    unet(*INPUTS)
    canvas = Canvas(600, 300, "a small U-Net")
    width, height, *_ = draw_unet(canvas, unet_trace(unet, *INPUTS), 50, 20)
    shown = texts(canvas)
    for name in ("down.0.transformer.1", "down.1.residual.1"):
        assert shape_text(shapes[name]) in shown
    assert "16 × 8 × 12" in shown and "3 skips: 16" in shown
    assert "3 skips: 16 and 32" in shown, "the downsampling is a skip too, as wide as the level above"
    assert 0 < width < 600 and 0 < height < 300


@pytest.mark.parametrize(("shape", "text"), [((1, 320, 64, 64), "320 × 64 × 64"), ((2, 1280), "1,280")])
def test_shapes_as_text(shape, text):
    assert shape_text(shape) == text
