"""The memory of patches and the search in it, beside scikit-learn, faiss and plain counting."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from mmdet_seg.probes import memory_index, patch_memory
from mmdet_seg.probes.memory_index import INDEXES, TorchIndex, build_index, recall
from mmdet_seg.probes.patch_memory import (
    Neighbours,
    PatchMemory,
    patch_shares,
    sample_patches,
    unit,
    vote,
)


def vectors(count, dim, seed):
    return unit(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize('kind', ['torch', 'faiss'])
def test_exact_search_equals_scikit_learn(kind, monkeypatch):
    monkeypatch.setattr(memory_index, '_ENTRIES', 100)  # several blocks, the last one smaller
    monkeypatch.setattr(memory_index, '_QUERIES', 7)
    memory, queries = vectors(530, 24, 0).half(), vectors(40, 24, 1)
    found = build_index(kind, memory).nearest(queries, 30)
    theirs = NearestNeighbors(n_neighbors=30, metric='cosine', algorithm='brute')
    distances, indices = theirs.fit(memory.double().numpy()).kneighbors(queries.double().numpy())
    # Halved vectors are not quite of unit length, which cosine distance mends.
    lengths = memory.float().norm(dim=1)[found.indices]
    torch.testing.assert_close(
        found.similarities / lengths, 1 - torch.from_numpy(distances).float(), atol=1e-3, rtol=0
    )
    same = (found.indices.numpy()[:, :, None] == indices[:, None]).any(2)
    assert same.mean() > 0.99  # neighbours 30 and 31 may be as near to each other as rounding
    assert (found.similarities.diff(dim=1) <= 0).all()


def test_torch_and_faiss_find_the_same_neighbours():
    memory, queries = vectors(3000, 32, 0).half(), vectors(200, 32, 1)
    ours = build_index('torch', memory).nearest(queries, 30)
    theirs = build_index('faiss', memory).nearest(queries, 30)
    torch.testing.assert_close(ours.similarities, theirs.similarities, atol=1e-5, rtol=0)
    apart = ours.similarities.diff(dim=1).abs() > 1e-5  # elsewhere the order is rounding
    assert apart.float().mean() > 0.9
    clear = torch.ones_like(ours.indices, dtype=torch.bool)
    clear[:, :-1] &= apart
    clear[:, 1:] &= apart
    clear[:, -1] = False  # may be as near as the one that was left out
    assert torch.equal(ours.indices[clear], theirs.indices[clear])


def test_the_approximate_index_says_how_good_it_is():
    centres = vectors(20, 16, 0)
    memory = unit(centres.repeat(200, 1) + 0.05 * torch.randn(4000, 16)).half()
    queries = unit(centres + 0.01)
    index = build_index('ivf', memory, seed=3)
    assert not index.exact
    assert build_index('faiss', memory).exact
    found = index.nearest(queries, 10)
    assert (found.indices % 20 == torch.arange(20)[:, None]).float().mean() > 0.95
    assert 50 < recall(index, memory, queries, 10) <= 100
    assert recall(TorchIndex(memory), memory, queries, 10) == 100
    again = build_index('ivf', memory, seed=3).nearest(queries, 10)
    assert torch.equal(found.indices, again.indices)


@pytest.mark.parametrize('kind', INDEXES)
def test_a_memory_may_be_smaller_than_the_neighbours(kind):
    memory = vectors(5, 8, 0).half()
    found = build_index(kind, memory).nearest(memory.float(), 30)
    assert found.indices.shape == (5, 5)
    assert found.indices[:, 0].tolist() == list(range(5))
    shares = vote(found, torch.eye(5).half(), 30, 0.02)
    torch.testing.assert_close(shares.sum(1), torch.ones(5))


def test_votes_are_a_softmax_over_cosines():
    found = Neighbours(torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[2, 0, 1]]))
    labels = torch.tensor([[1.0, 0], [0, 1], [0.25, 0.75]])
    a, b = np.exp(0.9 / 0.1), np.exp(0.8 / 0.1)
    expected = [(0.25 * a + b) / (a + b), 0.75 * a / (a + b)]
    assert vote(found, labels, 2, 0.1)[0].tolist() == pytest.approx(expected, rel=1e-5)
    # What an approximate index did not find has no say.
    lost = Neighbours(torch.tensor([[0.9, -torch.inf]]), torch.tensor([[2, 0]]))
    assert vote(lost, labels, 2, 0.1)[0].tolist() == pytest.approx([0.25, 0.75])


def test_shares_are_counts_of_pixels():
    generator = np.random.default_rng(0)
    label = generator.integers(0, 4, (6, 8))
    label[:3, :2] = 255  # one patch without a label
    shares = patch_shares(torch.from_numpy(label), (2, 4), 4).numpy()
    for i in range(8):
        row, column = divmod(i, 4)
        patch = label[3 * row : 3 * row + 3, 2 * column : 2 * column + 2]
        known = patch[patch < 4]
        expected = [np.mean(known == c) if len(known) else 0 for c in range(4)]
        np.testing.assert_allclose(shares[i], expected, rtol=1e-6)
    assert shares[0].sum() == 0


def test_rare_classes_are_sampled_first_and_void_never():
    shares = torch.zeros(100, 3)
    shares[:, 0] = 1
    shares[7] = torch.tensor([0.5, 0.5, 0])
    shares[50:55] = torch.tensor([0.0, 0, 1])
    shares[90:] = 0
    counts = torch.zeros(100)
    for seed in range(200):
        numbers = torch.rand(100, generator=torch.Generator().manual_seed(seed))
        chosen = sample_patches(shares, 10, numbers)
        assert len(chosen.unique()) == 10
        counts[chosen] += 1
    assert counts[90:].sum() == 0
    assert counts[50:55].mean() > 5 * counts[:50].mean()  # five patches of a class, not 85
    assert len(sample_patches(shares, 1000, torch.rand(100))) == 90


def test_a_memory_keeps_its_budget_and_can_be_continued(monkeypatch):
    def fill(memory, views):
        for view in memory.views_left():
            if view >= views:
                break
            generator = torch.Generator().manual_seed(view)
            maps = {n: torch.randn(6, 4, 5, generator=generator) * 9 for n in (1, 3)}
            label = torch.randint(0, 4, (8, 10), generator=generator)
            memory.add(view, maps, label)
        return memory

    arguments = ((1, 3), 50, 7, 6, 3, 5)
    whole = fill(PatchMemory(*arguments), 7)
    assert len(whole) == 50
    assert whole.views_left() == []
    few = PatchMemory((1, 3), 3, 7, 6, 3)
    assert few.views_left() == [2, 4, 6]
    assert len(fill(few, 7)) == 3
    assert whole.bytes_needed == sum(
        t.nbytes for name, t in whole.tensors().items() if name != 'view'
    )
    torch.testing.assert_close(
        whole.features(3).float().norm(dim=1), torch.ones(50), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(whole.labels().float().sum(1), torch.ones(50), atol=1e-2, rtol=0)
    begun = fill(PatchMemory(*arguments), 3)
    resumed = PatchMemory(*arguments)
    resumed.load(begun.tensors())
    fill(resumed, 7)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    other = fill(PatchMemory(*arguments[:-1], 6), 7)
    assert not torch.equal(other.features(1), whole.features(1))
    monkeypatch.setattr(patch_memory, 'available_bytes', lambda: 300)
    with pytest.raises(ValueError, match=r'--memory-size 50 takes 0.0 GiB .* --memory-size 10'):
        PatchMemory(*arguments)
