"""From a site's folder to figures: simulated single-coil, and real multi-coil as `fedmr prepare` keeps it."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from fastmri_files import header, kspace_of, write
from fedmr.data.images import read_nifti
from fedmr.hospital.prepare import Options, prepare
from fedmr.metrics import psnr
from fedmr.nets import build
from fedmr.physics.coils import reconstruct_zero_filled
from fedmr.physics.degradation import fft2c
from fedmr.reports.pictures import comparison_image
from fedmr.tasks.registry import build_task
from fedmr.tasks.slices import KspaceVolume, SliceSampler, load_volumes
from fedmr.training.trainer import Trainer, evaluate
from fedmr.utils.errors import DataError
from kspace_site import MASK, NETWORK, change_datalist, make_task, write_kspace_site
from phantoms import phantom, write_site


@pytest.fixture
def kspace_site(tmp_path):
    return write_kspace_site(tmp_path / "data", "site-2")


def test_kspace_is_simulated_from_the_magnitude_and_the_reference_left_as_it_is(site):
    volume = load_volumes(site, make_task())[0]
    voxels = phantom(1000, (48, 45, 5)).astype(np.float32)
    assert np.array_equal(volume.reference.numpy(), voxels.transpose(2, 0, 1))
    assert torch.allclose(volume.kspace(2, 4)[:, 0], fft2c(volume.reference[2:4]))


def test_raw_kspace_gives_its_root_sum_of_squares_in_the_images_part_of_the_view(kspace_site):
    volume = load_volumes(kspace_site, make_task())[0]
    raw = np.load(kspace_site / "volumes" / "0.npy")
    assert volume.size == (48, 36)
    assert torch.equal(volume.reference, reconstruct_zero_filled(torch.from_numpy(raw), (48, 36)))
    assert np.array_equal(volume.kspace(1, 3).numpy(), raw[1:3])


def test_what_prepare_keeps_of_fastmri_files_is_taken(tmp_path):
    for number in range(3):
        datasets = {"kspace": kspace_of(number, 5, 3, (80, 48)), "ismrmrd_header": header((80, 48), (40, 36))}
        write(tmp_path / "raw" / f"file{number}.h5", datasets, patient_id=f"p{number}", acquisition="AXT1")
    prepare(tmp_path / "raw", site="site-1", out=tmp_path / "data", options=Options(workers=1))
    volumes = load_volumes(tmp_path / "data" / "site-1", make_task())
    assert len(volumes) == 3
    for volume in volumes:
        voxels = read_nifti(tmp_path / "data" / "site-1" / volume.name).voxels
        assert np.allclose(volume.reference.numpy().transpose(2, 1, 0), voxels, rtol=1e-4, atol=1e-4)
        assert volume.kspace(0, 1).shape == (1, 3, 80, 48)


def test_a_mask_is_fixed_for_a_volume_and_another_for_the_next(site):
    first, second = load_volumes(site, make_task())[:2]
    columns = first.measured(0, 2)[1]
    assert torch.equal(columns, first.measured(3, 5)[1])
    assert torch.equal(columns, load_volumes(site, make_task(seed=7))[0].measured(0, 1)[1]), "whatever the seed"
    assert not torch.equal(columns, second.measured(0, 1)[1])
    kspace = first.measured(0, 2)[0]
    assert (kspace[..., ~columns] == 0).all()
    assert torch.equal(kspace[..., columns], first.kspace(0, 2)[..., columns])


def test_every_slice_has_a_fresh_mask_in_every_epoch_and_a_seed_repeats_it(site, monkeypatch):
    drawn = []
    task = make_task()
    sampler = SliceSampler([v for v in load_volumes(site, task) if v.split == "train"], task)
    draw = type(sampler.slices[0][0].mask).columns

    def record(mask, width, generator):
        drawn.append(draw(mask, width, generator))
        return drawn[-1]

    monkeypatch.setattr("fedmr.physics.masks.Mask.columns", record)
    epochs = [list(sampler.epoch(number)) for number in (0, 1, 0)]
    masks = [tuple(m.tolist()) for m in drawn]
    n = sampler.n_slices
    assert n == 5
    assert len(set(masks[: 2 * n])) == 2 * n, "of this seed all differ"
    assert masks[:n] == masks[2 * n :]
    for (a, b), (c, d) in zip(epochs[0], epochs[2], strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert [len(given) for given, _ in epochs[0]] == [4, 1]


@pytest.mark.parametrize("size", [32, 64])
def test_batches_are_standardised_by_the_whole_slice_and_have_the_tasks_size(site, size):
    task = make_task(size=size, batch_size=1)
    volume = load_volumes(site, task)[0]
    sampler = SliceSampler([volume], task)
    given, target = sampler.pair(volume, 2, torch.Generator().manual_seed(1))
    assert given.shape == target.shape == (size, size)
    columns = volume.mask.columns(45, torch.Generator().manual_seed(1))
    image = reconstruct_zero_filled(volume.kspace(2, 3)[0] * columns, (48, 45))
    top, left = size // 2 - 24, size // 2 - 22
    standard = (image - image.mean()) / image.std()
    inside = (slice(max(top, 0), top + 48), slice(max(left, 0), left + 45))
    expected = standard[max(-top, 0) :, max(-left, 0) :][: given[inside].shape[0], : given[inside].shape[1]]
    assert torch.allclose(given[inside], expected, atol=1e-5)
    if size == 64:
        nothing = -(image.mean() / image.std()).item()
        assert given[0, 0].item() == pytest.approx(nothing, abs=1e-5)
        assert target[0, 0].item() == pytest.approx(nothing, abs=1e-5)


def test_evaluation_is_at_full_odd_size_and_an_untrained_skip_network_is_zero_filling(site, kspace_site):
    task = make_task()
    net = build(**task.network)
    for folder, size in ((site, (48, 45)), (kspace_site, (48, 36))):
        volumes = load_volumes(folder, task, ("test",))
        images = task.baselines(volumes[0])
        assert task.restore(net, volumes[0]).shape == (len(volumes[0].reference), *size)
        assert torch.allclose(task.restore(net, volumes[0]), images["zero_filled"], rtol=1e-4, atol=1e-2)
        result = evaluate(net, volumes, task, with_baselines=True)
        assert set(result) == {"n_volumes", "zero_filled", "model"}
        assert result["zero_filled"]["psnr"] == psnr(images["zero_filled"], volumes[0].reference)
        assert result["model"]["psnr"] == pytest.approx(result["zero_filled"]["psnr"], abs=1e-2)


def test_the_reference_is_not_clamped(site):
    """A spike stays in the reference, and so in the range that PSNR is taken of."""
    volume = load_volumes(site, make_task())[0]
    spiked = dataclasses.replace(volume, reference=volume.reference.clone())
    spiked.reference[2, 24, 22] = 40 * volume.reference.max()
    result = evaluate(build(**NETWORK), [spiked], make_task(), with_baselines=True)
    assert result["zero_filled"]["psnr"] == psnr(make_task().baselines(spiked)["zero_filled"], spiked.reference)
    _, target = SliceSampler([spiked], make_task()).pair(spiked, 2, torch.Generator().manual_seed(0))
    assert target.max() > 6


@pytest.mark.parametrize(
    "network", [NETWORK | {"channels": 4}, {"name": "mscan", "scale": 1, "channels": 8, "blocks": 1}]
)
def test_training_improves_on_zero_filling_with_either_body(site, network):
    mask = MASK | {"kind": "equispaced"}
    task = make_task(network=network, mask=mask, size=48, batch_size=1, learning_rate=5e-3)
    volumes = load_volumes(site, task, ("train",))
    trainer = Trainer(task, SliceSampler(volumes, task), rounds=12)
    before = evaluate(trainer.net, volumes, task)["model"]["psnr"]
    losses = [trainer.run_epoch().loss for _ in range(12)]
    assert losses[-1] < losses[0]
    assert evaluate(trainer.net, volumes, task)["model"]["psnr"] > before + 0.3


def test_the_papers_optimiser_can_be_chosen(site):
    task = make_task(optimizer="rmsprop", learning_rate=1e-4)
    trainer = Trainer(task, SliceSampler(load_volumes(site, task, ("train",)), task), rounds=1)
    assert isinstance(trainer.optimizer, torch.optim.RMSprop)
    assert trainer.run_epoch().steps == 2


def test_a_restart_between_epochs_changes_nothing(site):
    task = make_task()
    volumes = [v for v in load_volumes(site, task) if v.split == "train"]
    straight, restarted = (Trainer(task, SliceSampler(volumes, task), rounds=2) for _ in range(2))
    straight.run_epoch()
    restarted.load_state_dict(copy.deepcopy(straight.state_dict()))
    for trainer in (straight, restarted):
        trainer.run_epoch()
    pairs = zip(straight.net.state_dict().values(), restarted.net.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_data_consistency_never_makes_a_network_worse_than_what_was_measured(site):
    """A network that returns nothing: without the measurement the image is lost, with it most is there."""
    task = make_task(network=NETWORK | {"skip": False}, data_consistency=True)
    net = build(**task.network)
    volumes = load_volumes(site, task, ("test",))
    kept = evaluate(net, volumes, task)["model"]["psnr"]
    lost = evaluate(net, volumes, dataclasses.replace(task, data_consistency=False))["model"]["psnr"]
    assert kept > lost + 3


def test_a_site_can_have_a_mask_of_its_own(site):
    change_datalist(site, mask={"kind": "equispaced", "acceleration": 8, "center_fraction": 0.05})
    assert load_volumes(site, make_task())[0].mask.kind == "equispaced"
    change_datalist(site, mask={"acceleration": 0.5})
    with pytest.raises(DataError, match=r"datalist\.json: mask: acceleration is 0\.5"):
        load_volumes(site, make_task())
    change_datalist(site, mask="equispaced")
    with pytest.raises(DataError, match=r"datalist\.json"):
        load_volumes(site, make_task())


def poisson(kspace):
    kspace[:, :, np.random.default_rng(0).random(kspace.shape[-2:]) < 0.8] = 0
    return kspace


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda k: poisson(k), "no reference for reconstruction: slice 0 is under-sampled"),
        (lambda k: k[:2], "as large as the image of 3 slices"),
        (lambda k: k[..., :30], "as large as the image"),
        (lambda k: k.astype(np.complex128), "holds complex128"),
        (lambda k: k[:, 0], "complex64"),
    ],
)
def test_kspace_that_is_no_reference_is_named(kspace_site, spoil, message):
    path = kspace_site / "volumes" / "0.npy"
    np.save(path, spoil(np.load(path)))
    with pytest.raises(DataError, match=message):
        load_volumes(kspace_site, make_task())


def test_unusable_sites_say_why(site, kspace_site, tmp_path):
    (kspace_site / "volumes" / "1.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1\.npy cannot be read"):
        load_volumes(kspace_site, make_task())
    with pytest.raises(DataError, match="take a smaller size"):
        SliceSampler(load_volumes(site, make_task()), make_task(size=1000))
    small = write_site(tmp_path / "data", "site-3", seed=3, shape=(30, 45, 3))
    with pytest.raises(DataError, match="needs 32"):
        load_volumes(small, make_task())


def test_the_picture_shows_measured_kspace_zero_filling_result_and_reference(kspace_site):
    task = make_task()
    net, volume = build(**task.network), load_volumes(kspace_site, task)[0]
    picture = comparison_image(net, volume, task)
    assert picture.shape == (1, 48, 4 * 36)
    kspace, image, result, reference = np.split(picture[0], 4, axis=1)
    assert np.abs(image.astype(int) - result).max() <= 1
    assert np.abs(reference.astype(float) - image).mean() > 1
    columns = volume.measured(1, 2)[1][2:38].numpy()
    assert (kspace[:, ~columns] == 0).all()
    assert (kspace[:, columns].max(axis=0) > 0).all()
    shown = task.panels(net, volume)
    assert torch.equal(shown[3], volume.reference[1])
    assert isinstance(volume, KspaceVolume)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask": {"acceleration": 4}}, "network is missing"),
        ({"network": NETWORK, "mask": {"kind": "spiral"}}, "kind is 'spiral'"),
        ({"network": NETWORK, "mask": MASK, "patch_size": 24}, "patch_size is unknown"),
        ({"network": NETWORK, "mask": MASK, "size": 0}, "size is 0"),
        ({"network": NETWORK | {"scale": 2}, "mask": MASK}, "needs 1"),
        ({"network": NETWORK, "mask": MASK, "optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"network": {"name": "mscan", "scale": 1}}, "needs 2 or more"),
    ],
)
def test_a_bad_task_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        build_task(values)


def test_a_task_survives_its_dictionary():
    task = make_task(data_consistency=True)
    assert build_task(task.to_dict()) == task
