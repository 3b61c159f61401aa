"""Views: what each number of a draw does to an image, and that a seed fixes them."""

from __future__ import annotations

import pytest
import torch
from dsclust.features.views import ImageViews, RowViews
from torch.nn import functional as F

IDENTITY = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_are_fixed_by_the_seed_and_stay_in_the_image():
    views = ImageViews(crop=0.3, jitter=0.4)
    drawn = views.draw(2000, generator(1))
    torch.testing.assert_close(drawn, views.draw(2000, generator(1)), rtol=0, atol=0)
    assert (drawn != views.draw(2000, generator(2))).any()
    top, left, height, width, mirrored, brightness, contrast = drawn.unbind(1)
    area, aspect = height * width, height / width
    assert area.min() >= 0.3 - 1e-5
    assert area.min() < 0.32
    assert area.max() > 0.98
    assert aspect.min() >= 3 / 4 - 1e-5
    assert aspect.max() <= 4 / 3 + 1e-5
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1 + 1e-6).all()
    assert (left + width <= 1 + 1e-6).all()
    assert set(mirrored.tolist()) == {-1.0, 1.0}
    for factor in (brightness, contrast):
        assert 0.6 <= factor.min() < 0.62
        assert 1.38 < factor.max() <= 1.4
    torch.testing.assert_close(ImageViews(1.0, False, 0.0).draw(3, generator()), torch.tensor([IDENTITY] * 3))


def test_each_number_of_a_view_does_what_it_says():
    x = torch.rand(1, 3, 8, 6, generator=generator())
    view = torch.tensor([IDENTITY])

    def changed(**numbers):
        names = ("top", "left", "height", "width", "mirrored", "brightness", "contrast")
        other = view.clone()
        for name, value in numbers.items():
            other[0, names.index(name)] = value
        return ImageViews.apply(x, other)

    torch.testing.assert_close(changed(), x)
    torch.testing.assert_close(changed(mirrored=-1.0), x.flip(3))
    torch.testing.assert_close(changed(brightness=0.5), 0.5 * x)
    torch.testing.assert_close(changed(contrast=0.5), 0.5 * x + 0.5 * x.mean())
    assert changed(brightness=1.9).max() <= 1.0
    lower_right = F.interpolate(x[:, :, 4:, 3:], (8, 6), mode="bilinear", align_corners=False)
    inner = changed(top=0.5, left=0.5, height=0.5, width=0.5)
    torch.testing.assert_close(inner[:, :, 1:, 1:], lower_right[:, :, 1:, 1:])  # at the cut the image goes on
    # Samples do not look at one another.
    drawn = ImageViews().draw(5, generator())
    batch = torch.rand(5, 3, 8, 6, generator=generator(3))
    torch.testing.assert_close(ImageViews.apply(batch, drawn)[2:3], ImageViews.apply(batch[2:3], drawn[2:3]))


def test_rows_get_noise_in_units_of_their_spread_and_dropped_features_their_mean():
    views = RowViews(0.25)
    drawn = views.draw(1, 20_000, generator())
    mean, spread = torch.full((20_000,), 3.0), torch.full((20_000,), 2.0)
    rows = torch.full((1, 20_000), 5.0)
    out = views.apply(rows, drawn, mean, spread)
    dropped = out == 3.0
    assert abs(float(dropped.float().mean()) - 0.25) < 0.02
    assert abs(float(out[~dropped].mean()) - 5.0) < 0.02
    assert abs(float(out[~dropped].std()) - 0.5) < 0.02
    torch.testing.assert_close(
        RowViews(0.0).apply(rows, RowViews(0.0).draw(1, 20_000, generator()), mean, spread), rows
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ImageViews(crop=0.0), r"crop: expected a share of the area in \(0, 1\], got 0.0"),
        (lambda: ImageViews(jitter=1.0), r"jitter: expected a relative change in \[0, 1\), got 1.0"),
        (lambda: RowViews(-0.1), r"noise: expected a number in \[0, 1\), got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make, text):
    with pytest.raises(ValueError, match=text):
        make()
