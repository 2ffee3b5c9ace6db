import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from torch import nn

from fedmr.audit.membership import auc, membership
from fedmr.physics.degradation import interpolate
from fedmr.tasks.patches import PatchSampler, load_volumes

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=20)


class Memory(nn.Module):
    """Gives back the HR patch of every LR patch it has seen, of all others the interpolation."""

    def __init__(self, pairs) -> None:
        super().__init__()
        self.known = {low.numpy().tobytes(): high for low, high in pairs}

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        usual = interpolate(low, 2)
        return torch.stack([self.known.get(p.numpy().tobytes(), usual[i]) for i, p in enumerate(low)])


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_order(members, others):
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    expected = sum(pairs) / len(pairs)
    assert auc(torch.tensor(members).float(), torch.tensor(others).float()) == pytest.approx(expected)


@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 300))
def test_auc_is_that_of_rank_sums_to_the_last_shown_digit(seed, n_members, n_others):
    generator = torch.Generator().manual_seed(seed)
    members, others = torch.randn(n_members, generator=generator), torch.randn(n_others, generator=generator)
    ranks = torch.as_tensor(rankdata(torch.cat([members, others]).numpy()))
    smaller = ranks[:n_members].sum() - n_members * (n_members + 1) / 2
    assert auc(members, others) == pytest.approx(float(smaller / (n_members * n_others)), abs=1e-12)


def test_scores_of_nobody_are_refused():
    with pytest.raises(ValueError, match="members and of others"):
        auc(torch.zeros(0), torch.ones(3))


def test_memorised_patients_are_told_from_others(site, task):
    volumes = load_volumes(site, task)
    seen = [
        (low, high)
        for volume in volumes
        if volume.split == "train"
        for batch in PatchSampler([volume], task).epoch(0)
        for low, high in zip(*batch, strict=True)
    ]
    found = membership(Memory(seen), volumes, task)
    assert found["loss_patches"] == found["relative_patches"] == found["relative_volumes"] == 1.0
    assert (found["members"], found["others"]) == (1, 2)


def test_a_network_that_has_seen_nobody_tells_nothing_beyond_the_difficulty(site, task):
    found = membership(Memory([]), load_volumes(site, task), task)
    assert found["relative_patches"] == pytest.approx(0.5)
