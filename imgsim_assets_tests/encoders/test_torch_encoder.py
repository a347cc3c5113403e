from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.request import build_opener, install_opener

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from imgsim_assets.encoders import hardware, onednn, torch_encoder
from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.encoder import Encoder, load_encoder
from imgsim_assets.encoders.engine import EncodedBatch, Engine
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.torch_device import require_bf16, resolve_devices
from imgsim_assets.encoders.torch_encoder import (
    TorchEncoder,
    center_crop,
    stretch,
)
from imgsim_assets.errors import EncoderError
from imgsim_assets_tests.support import custom_encoders
from imgsim_assets_tests.support.images import make_image
from imgsim_assets_tests.support.weights import save_weights, save_zero_weights, untrained

IMAGES = [make_image(seed, (120 + 10 * seed, 90)) for seed in range(3)]


@pytest.mark.parametrize("name", ["squeezenet1_1", "vit_b_32", "swin_t"])
def test_backbone_features_are_finite_and_distinct(name: str, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    encoder = _load(name, save_weights(untrained(name), path))
    path.unlink()  # hundreds of megabytes would stay behind

    features = _encode(encoder)

    assert features.shape == (3, BACKBONES[name].dim)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert len(np.unique(features, axis=0)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_encodes_in_both_precisions(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a weights file, preprocessing, convolution fusion and a forward pass."""
    # Torch emulates bf16 without hardware support, slowly.
    monkeypatch.setattr(hardware, "has_bf16", lambda: True)
    path = tmp_path / "own.pth"
    save_weights(untrained(name), path)
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    rows = []
    for precision in precisions:
        settings = EncoderSettings(name=name, weights=str(path), device="cpu", precision=precision)
        encoder = load_encoder(settings)
        rows.append(encoder.encode(encoder.prepare(IMAGES[0])[None]))
        del encoder
    path.unlink()  # up to gigabytes would stay behind

    for features in rows:
        assert features.shape == (1, BACKBONES[name].dim)
        assert np.isfinite(features).all()
        assert np.linalg.norm(features) > 0
    both = (_unit(rows[0]) * _unit(rows[1])).sum()
    assert both > 0.99


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet"])
def test_features_are_the_input_of_the_classifier(name: str, tmp_path: Path) -> None:
    model = untrained(name)
    encoder = _load(name, save_weights(model, tmp_path / "own.pth"))

    features = _encode(encoder)

    expected = _input_of_the_classifier(model, _normalized(BACKBONES[name].input_size()))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_whole_image_is_stretched_to_input_size(tmp_path: Path) -> None:
    encoder = _load("squeezenet1_1", save_weights(untrained("squeezenet1_1"), tmp_path / "own.pth"))
    wide = make_image(1, (400, 100))
    wide.paste((255, 0, 0), (0, 0, 30, 100))
    wide.paste((0, 0, 255), (370, 0, 400, 100))

    prepared = encoder.prepare(wide)

    assert prepared.shape == (224, 224, 3)
    assert prepared.dtype == np.uint8
    assert prepared[100, 2].tolist() == [255, 0, 0]
    assert prepared[100, -3].tolist() == [0, 0, 255]


def test_center_crop_resizes_only_the_middle_of_a_thin_image() -> None:
    # The whole image resized would be wider than any image can be.
    line = Image.new("RGB", (3_000_000, 1), (255, 0, 0))
    line.paste((0, 255, 0), (1_499_990, 0, 1_500_010, 1))

    for thin in (line, line.transpose(Image.Transpose.ROTATE_90)):
        cut = center_crop(thin, 256, 224, Image.Resampling.BICUBIC)

        assert cut.shape == (224, 224, 3)
        assert np.unique(cut.reshape(-1, 3), axis=0).tolist() == [[0, 255, 0]]


@pytest.mark.parametrize("size", [(30, 480), (30, 481), (1000, 31), (90, 120)])
def test_center_crop_is_the_middle_of_the_resized_image(size: tuple[int, int]) -> None:
    image = make_image(1, size)
    scale = 256 / min(size)
    width, height = (int(length * scale) for length in size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    whole = image.resize((width, height), Image.Resampling.BILINEAR)

    cut = center_crop(image, 256, 224, Image.Resampling.BILINEAR)

    expected = np.asarray(whole.crop((left, top, left + 224, top + 224)))
    difference = np.abs(cut.astype(int) - expected.astype(int)).max()
    assert difference <= (1 if max(size) > 16 * min(size) else 0)


def test_vector_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    name = "mobilenet_v3_small"
    encoder = _load(name, save_weights(untrained(name), tmp_path / "own.pth"))
    prepared = np.stack([encoder.prepare(make_image(seed)) for seed in range(7)])

    alone = np.concatenate([encoder.encode(one[None]) for one in prepared])

    for size in (2, 3, 7):
        together = [encoder.encode(prepared[at : at + size]) for at in range(0, 7, size)]
        np.testing.assert_allclose(_unit(np.concatenate(together)), _unit(alone), atol=1e-6)


def test_other_weights_give_other_features(tmp_path: Path) -> None:
    name = "squeezenet1_1"
    first, second = (
        _encode(_load(name, save_weights(untrained(name, seed), tmp_path / f"{seed}.pth")))
        for seed in range(2)
    )

    assert not np.allclose(first, second, rtol=0.1)


# ---- weights files ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_weights_file_may_lack_classifier_and_auxiliary_outputs(name: str, tmp_path: Path) -> None:
    model = untrained(name)
    whole = _load(name, save_weights(model, tmp_path / "whole.pth"))
    unused = ("aux", "classifier.", "fc.")
    state = {key: value for key, value in model.state_dict().items() if not key.startswith(unused)}
    torch.save(state, tmp_path / "features.pth")

    features_only = _load(name, str(tmp_path / "features.pth"))

    np.testing.assert_array_equal(_encode(features_only), _encode(whole))


def test_weights_fine_tuned_to_other_classes_can_be_used(tmp_path: Path) -> None:
    model = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=7)

    encoder = _load("shufflenet_v2_x0_5", save_weights(model, tmp_path / "own.pth"))

    assert encoder.dim == 1024


def test_weights_file_of_large_vision_transformer_can_be_used(
    tmp_path: Path,
) -> None:
    path = save_zero_weights("vit_b_16", tmp_path / "vit_b_16_swag.pth", image_size=384)

    assert _load("vit_b_16", path).dim == 768


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", pickle.dumps({"weight": Path("x")}, protocol=2)],
    ids=["empty", "a web page", "objects"],
)
def test_file_not_saved_by_torch_is_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    path.write_bytes(content)

    with pytest.raises(EncoderError, match=f"weights: {path} is not a state dict"):
        _load("squeezenet1_1", str(path))


@pytest.mark.parametrize("content", [b"hello world", b"a,b,c\n1,2,3\n"])
def test_text_file_is_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    path.write_bytes(content)

    with pytest.raises(EncoderError, match=f"weights: {path}"):
        _load("squeezenet1_1", str(path))


@pytest.mark.parametrize("saved_object", [[1, 2], {1: torch.zeros(2)}, torch.zeros(2), None])
def test_file_of_another_object_is_rejected(saved_object: object, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save(saved_object, path)

    with pytest.raises(EncoderError, match=f"weights: {path} is not a state dict, but a "):
        _load("squeezenet1_1", str(path))


def test_truncated_weights_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    save_weights(untrained("squeezenet1_1"), path)
    whole = path.read_bytes()
    for length in (1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])

        with pytest.raises(EncoderError, match=f"weights: {path} is not a state dict"):
            _load("squeezenet1_1", str(path))


def test_saved_module_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save(untrained("squeezenet1_1"), path)

    with pytest.raises(EncoderError, match=f"weights: {path} is not a state dict"):
        _load("squeezenet1_1", str(path))


def test_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=rf"weights: {tmp_path}/gone.pth"):
        _load("squeezenet1_1", str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("other", ["squeezenet1_0", "mobilenet_v3_small"])
def test_weights_of_another_model_are_rejected(other: str, tmp_path: Path) -> None:
    path = save_zero_weights(other, tmp_path / "own.pth")

    message = f"weights: {path} does not fit squeezenet1_1, but {other}: "
    with pytest.raises(EncoderError, match=message):
        _load("squeezenet1_1", path)


def test_weights_without_a_layer_are_rejected(tmp_path: Path) -> None:
    state = untrained("squeezenet1_1").state_dict()
    del state["features.3.squeeze.bias"]
    torch.save(state, tmp_path / "own.pth")

    with pytest.raises(EncoderError, match=r"it lacks 1 entries \(features.3.squeeze.bias\)"):
        _load("squeezenet1_1", str(tmp_path / "own.pth"))


def test_checkpoint_with_other_entries_is_rejected(
    tmp_path: Path,
) -> None:
    state = untrained("squeezenet1_1").state_dict()
    torch.save({"epoch": torch.tensor(7), **state}, tmp_path / "own.pth")
    torch.save({"state_dict": state}, tmp_path / "nested.pth")

    with pytest.raises(EncoderError, match=r"lacks 0 entries and has 1 entries \(epoch\) too many"):
        _load("squeezenet1_1", str(tmp_path / "own.pth"))
    with pytest.raises(
        EncoderError, match=r"not a state dict, but a dict with 'state_dict'; save model"
    ):
        _load("squeezenet1_1", str(tmp_path / "nested.pth"))


# ---- published weights ------------------------------------------------------------------


def test_failed_download_message_names_both_fixes(
    without_network: Path,
) -> None:
    with pytest.raises(EncoderError) as failure:
        load_encoder(EncoderSettings(name="squeezenet1_1", device="cpu"))

    message = str(failure.value)
    assert "IMAGENET1K_V1 of squeezenet1_1" in message
    assert "https://download.pytorch.org/models/squeezenet1_1" in message
    assert "weights: PATH" in message
    assert "encoder: imgsim_copy" in message


def test_damaged_download_is_named_in_error(without_network: Path) -> None:
    url = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url
    cached = without_network / "hub/checkpoints" / url.rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"<html>please sign in</html>")

    with pytest.raises(EncoderError, match=cached.name):
        load_encoder(EncoderSettings(name="squeezenet1_1", device="cpu"))


def test_cached_weights_are_used_without_network(without_network: Path) -> None:
    url = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url
    cached = without_network / "hub/checkpoints" / url.rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    model = untrained("squeezenet1_1")
    save_weights(model, cached)

    published = load_encoder(EncoderSettings(name="squeezenet1_1", device="cpu"))

    np.testing.assert_array_equal(_encode(published), _encode(_load("squeezenet1_1", str(cached))))


# ---- devices ----------------------------------------------------------------------------


def test_missing_gpu_raises_with_fix(tmp_path: Path) -> None:
    path = save_zero_weights("squeezenet1_1", tmp_path / "own.pth")
    absent = f"cuda:{torch.cuda.device_count() + 9}"

    with pytest.raises(
        EncoderError, match=f"there is no {absent} on this machine.*'auto' or 'cpu'"
    ):
        load_encoder(EncoderSettings(name="squeezenet1_1", weights=path, device=absent))


def test_auto_uses_available_gpu() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"

    assert resolve_devices(EncoderSettings())[0].type == expected
    assert resolve_devices(EncoderSettings(device="cpu")) == [torch.device("cpu")]


@pytest.mark.parametrize(
    ("device", "num_gpus", "expected"),
    [
        ("auto", -1, ["cuda:0", "cuda:1"]),
        ("auto", 0, ["cpu"]),
        ("auto", 1, ["cuda:0"]),
        ("auto", 2, ["cuda:0", "cuda:1"]),
        ("cuda", -1, ["cuda:0", "cuda:1"]),
        ("cuda", 1, ["cuda:0"]),
        ("cuda:1", -1, ["cuda:1"]),
        ("cpu", -1, ["cpu"]),
    ],
)
def test_device_and_num_gpus_select_gpus(
    device: str, num_gpus: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpus(monkeypatch, 2)

    chosen = resolve_devices(EncoderSettings(device=device, num_gpus=num_gpus))

    assert [str(each) for each in chosen] == expected


@pytest.mark.parametrize(
    ("gpus", "device", "num_gpus", "message"),
    [
        (2, "auto", 3, r"num_gpus: this machine does not have 3 \(2 GPUs are visible\)"),
        (0, "auto", 1, r"num_gpus: this machine does not have 1 \(0 GPUs are visible\)"),
        (2, "cuda:2", -1, r"device: there is no cuda:2 .*\(2 GPUs are visible\); use 'auto'"),
        (0, "cuda", -1, "device: there is no cuda on this machine"),
    ],
)
def test_too_many_gpus_raise_with_visible_count(
    gpus: int, device: str, num_gpus: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpus(monkeypatch, gpus)

    with pytest.raises(EncoderError, match=message):
        resolve_devices(EncoderSettings(device=device, num_gpus=num_gpus))


def test_auto_without_gpu_uses_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(monkeypatch, 0)

    assert resolve_devices(EncoderSettings(num_gpus=-1)) == [torch.device("cpu")]


class _Meeting(nn.Module):
    """Its forward pass waits for a pass of another copy."""

    barrier = threading.Barrier(2, timeout=30)
    weights_in_use: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 5)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.weights_in_use.add(self.layer.weight.data_ptr())
        self.barrier.wait()
        features: torch.Tensor = self.layer(batch.flatten(1))
        return features


def test_devices_have_model_copies_and_share_one_queue() -> None:
    """Two devices that are both the CPU; a pass on one waits for a pass on the other."""
    torch.manual_seed(0)
    module = _Meeting()
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    encoder = TorchEncoder(
        module, lambda image: custom_encoders.to_tensor(image).numpy(), 5, devices
    )

    results = list(Engine(encoder, 2, cores=2).run(range(16), lambda key: make_image(key)))

    assert len(module.weights_in_use) == 2
    found = np.concatenate(
        [result.features for result in results if isinstance(result, EncodedBatch)]
    )
    tensors = torch.stack([custom_encoders.to_tensor(make_image(key)) for key in range(16)])
    expected = module.layer(tensors.flatten(1)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_several_devices_give_the_vectors_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_weights(untrained("squeezenet1_1"), tmp_path / "own.pth")
    alone = _encode(_load("squeezenet1_1", path))
    devices = [torch.device("cpu"), torch.device("cpu", 0), torch.device("cpu", 0)]
    monkeypatch.setattr(torch_encoder, "resolve_devices", lambda _: devices)
    monkeypatch.setattr(onednn, "suits", lambda *_: False)  # as on GPUs
    spread = _load("squeezenet1_1", path)
    assert isinstance(spread, TorchEncoder)
    replicas = spread.replicas(2)

    assert len(replicas) == 6
    assert len({id(replica) for replica in replicas}) == 3
    for replica in replicas:
        np.testing.assert_allclose(_encode(replica), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "expected"), [(224, 128), (448, 32), (None, 128), (4096, 1)])
def test_gpu_batch_size_ignores_memory_of_machine(
    side: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "usable_memory", lambda: 2**30)
    encoder = TorchEncoder(nn.Flatten(), np.asarray, 1, [torch.device("cpu")], input_size=side)
    encoder.device = torch.device("cuda")

    assert encoder.batch_size == expected


def test_release_memory_empties_gpu_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    encoder = TorchEncoder(nn.Flatten(), np.asarray, 1, [torch.device("cpu")])

    encoder.release_memory()
    assert not emptied
    encoder.device = torch.device("cuda")
    encoder.release_memory()

    assert emptied == [True]


def test_bf16_without_hardware_support_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)

    require_bf16(torch.float32, gpu)
    with pytest.raises(EncoderError, match=r"in bf16, which the cuda of this machine cannot"):
        require_bf16(torch.bfloat16, gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)

    require_bf16(torch.bfloat16, gpu)


class _Counting(nn.Module):
    """Records the number of torch's threads."""

    numbers: ClassVar[list[int]] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.numbers.append(torch.get_num_threads())
        return batch.flatten(1)


def test_only_encoding_threads_use_one_thread() -> None:
    encoder = TorchEncoder(_Counting(), np.asarray, 192, [torch.device("cpu")])
    engine = Engine(encoder, 2, cores=2)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for _ in range(3):
            list(engine.run(range(8), lambda key: make_image(key, (8, 8))))
        engine._encode_pool.shutdown()  # one that found nothing to do may still be starting

        assert _Counting.numbers == [1] * 12
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("gibibytes", "cores", "side", "expected"),
    [(24, 2, 224, 8), (24, 2, 448, 2), (1, 2, 224, 2), (8, 64, 224, 1), (24, 2, 1024, 1)],
)
def test_cpu_batch_size_depends_on_input_size_and_memory(
    gibibytes: int, cores: int, side: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "usable_memory", lambda: gibibytes * 2**30)
    monkeypatch.setattr(hardware, "usable_cores", lambda: cores)
    cpu = [torch.device("cpu")]

    encoder = TorchEncoder(nn.Flatten(), np.asarray, 1, cpu, input_size=side)

    assert encoder.batch_size == expected


def _gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


# ---- users' modules --------------------------------------------------------------------


def test_module_runs_in_evaluation_mode() -> None:
    encoder = _own("with_dropout")

    np.testing.assert_array_equal(_encode(encoder), _encode(encoder))
    assert np.count_nonzero(_encode(encoder)) == 15


@pytest.mark.parametrize("factory", ["module", "plain_tuple", "with_arrays"])
def test_factory_may_return_name_module_and_transform(factory: str) -> None:
    encoder = _own(factory)

    features = _encode(encoder)

    linear = custom_encoders.module().module
    tensors = torch.stack([custom_encoders.to_tensor(image) for image in IMAGES])
    assert encoder.dim == 5
    np.testing.assert_allclose(features, linear(tensors).detach().numpy(), rtol=1e-5)


def test_state_digest_depends_on_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(seed: str) -> str:
        monkeypatch.setenv(custom_encoders.SEED, seed)
        encoder = _own("module")
        assert isinstance(encoder, TorchEncoder)
        return encoder.state_digest()

    assert digest("1") == digest("1")
    assert digest("1") != digest("2")


def test_state_digest_supports_batch_normalization() -> None:
    encoder = _own("with_batch_norm")
    assert isinstance(encoder, TorchEncoder)

    assert len(encoder.state_digest()) == 64


def _load(name: str, path: str) -> Encoder:
    return load_encoder(EncoderSettings(name=name, weights=path, device="cpu"))


def _own(function: str) -> Encoder:
    return load_encoder(
        EncoderSettings(factory=f"{custom_encoders.__name__}:{function}", version="1", device="cpu")
    )


def _encode(encoder: Encoder) -> NDArray[np.float32]:
    return encoder.encode(np.stack([encoder.prepare(image) for image in IMAGES]))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _normalized(size: int) -> torch.Tensor:
    pixels = torch.stack([torch.from_numpy(stretch(image, size).copy()) for image in IMAGES])
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((pixels / 255 - mean) / deviation).permute(0, 3, 1, 2)


def _input_of_the_classifier(model: nn.Module, batch: torch.Tensor) -> NDArray[np.float32]:
    seen: list[torch.Tensor] = []
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(batch)
    read: NDArray[Any] = seen[0].numpy()
    return read


@pytest.fixture
def without_network(tmp_path: Path) -> Iterator[Path]:
    """Torch's download folder, empty; downloads fail on a closed port."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy"):
            environment.setenv(name, "http://127.0.0.1:9")
        environment.delenv("no_proxy", raising=False)
        environment.setenv("TORCH_HOME", str(tmp_path / "torch"))
        # urlopen keeps the proxies of its first call while the process lives.
        install_opener(build_opener())
        yield tmp_path / "torch"
    install_opener(build_opener())
