"""The device's decoder, mostly on a CPU: everything but nvJPEG is the same there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders import onednn, torch_encoder
from imgsim_assets.encoders.encoder import (
    Encoder,
    fingerprint,
    gpu_decodable_jpeg,
    load_encoder,
    min_decode_size,
)
from imgsim_assets.encoders.engine import EncodedBatch, Engine, FailedImage
from imgsim_assets.encoders.jpeg_decoder import JpegDecoder
from imgsim_assets.encoders.settings import EncoderSettings, EvaluationSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.torch_encoder import TorchEncoder, stretch
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import EncoderError
from imgsim_assets.evaluation.stage import EvaluationStage
from imgsim_assets.images.decode import decode
from imgsim_assets.images.jpeg import Jpeg
from imgsim_assets.search.embedder import Embedder
from imgsim_assets.search.image_ref import ImageRef
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import embed_shards, fill, sha256_of
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.malformed_images import stored_with_exif, wide_gamut_profile
from imgsim_assets_tests.support.weights import save_weights, untrained

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

CPU = torch.device("cpu")
NAME = "squeezenet1_1"
SIDE = 224
PLAIN: dict[str, bytes] = {
    "small": jpeg(1),
    "4:4:4": encoded(make_image(2, (400, 300)), subsampling=0),
    "progressive": encoded(make_image(3, (301, 203)), progressive=True),
    "gray": encoded(make_image(4, (200, 260)).convert("L")),
    "one column": jpeg(5, (1, 60)),
    "thin": jpeg(6, (3000, 2)),
    "large": jpeg(7, (1790, 1800)),
}
_STORED, _EXIF = stored_with_exif(make_image(8, (320, 200)), 6)
SPECIAL: dict[str, bytes] = {
    "turned": encoded(_STORED, exif=_EXIF),
    "with a profile": encoded(make_image(9), icc_profile=wide_gamut_profile()),
    "in CMYK": encoded(make_image(10).convert("CMYK")),
    "to be reduced": jpeg(11, (1800, 1800)),
    "PNG": encoded(make_image(12), "PNG"),
    "without its end marker": PLAIN["4:4:4"][:-2],
}
# A JPEG with a valid header and end, and an invalid Huffman table.
_TABLE = PLAIN["small"].index(b"\xff\xc4") + 5
BROKEN: dict[str, bytes] = {
    "cut in half": PLAIN["progressive"][: len(PLAIN["progressive"]) // 2],
    "damaged": PLAIN["small"][:_TABLE] + b"\xff" * 16 + PLAIN["small"][_TABLE + 16 :],
    "no image": b"<html>",
}
FILES = {**PLAIN, **SPECIAL, **BROKEN}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_weights(untrained(NAME), tmp_path_factory.mktemp("weights") / "own.pth")


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the CPU as the GPU that the settings name."""
    monkeypatch.setattr(torch_encoder, "resolve_devices", lambda _: [CPU])
    monkeypatch.setattr(torch_encoder, "require_gpu_for_decoding", lambda *_: None)


@pytest.fixture
def own(weights: str, on_a_cpu: None) -> Encoder:
    """An encoder with a decoder of its own."""
    return load_encoder(_settings(weights))


# ---- squares ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLAIN)
def test_square_agrees_with_pillow(kind: str) -> None:
    (square,) = JpegDecoder(CPU, SIDE).decode([Jpeg(PLAIN[kind])])

    expected = stretch(decode(PLAIN[kind]), SIDE).astype(int)
    assert square is not None
    assert square.dtype == torch.uint8
    assert np.abs(square.numpy().astype(int) - expected).max() <= 1


def test_square_does_not_depend_on_the_list() -> None:
    decoder = JpegDecoder(CPU, 32)
    files = [jpeg(seed, (40 + 31 * seed, 300 - 29 * seed)) for seed in range(9)]
    files[2] = BROKEN["damaged"]
    jpegs = [Jpeg(data) for data in files]
    alone = [decoder.decode([one])[0] for one in jpegs]

    for size in (2, 4, 9):
        parts = [decoder.decode(jpegs[at : at + size]) for at in range(0, 9, size)]
        together = [square for part in parts for square in part]

        assert [square is None for square in together] == [at == 2 for at in range(9)]
        for one, other in zip(together, alone, strict=True):
            assert one is other is None or torch.equal(_known(one), _known(other))


def test_flat_square_is_left_to_the_decoder_that_judges_content() -> None:
    blank = encoded(Image.new("RGB", (300, 300), (200, 30, 90)))
    page = Image.new("RGB", (300, 300), "white")
    page.paste((0, 0, 0), (100, 100, 140, 140))

    squares = JpegDecoder(CPU, 32).decode([Jpeg(blank), Jpeg(encoded(page))])

    assert [square is None for square in squares] == [True, False]


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.parametrize("kept", [False, True])
def test_blank_jpeg_has_the_status_that_the_cpu_gives_it(
    store: Store, weights: str, kept: bool
) -> None:
    dot = Image.new("RGB", (500, 500), "white")
    dot.putpixel((250, 250), (0, 0, 0))
    images = {"blank": encoded(Image.new("RGB", (90, 90))), "dot": encoded(dot), "sound": jpeg(1)}
    settings = _settings(weights).model_copy(update={"blank": "keep" if kept else "reject"})

    embed_shards(store, "shop", settings, fill(store, "shop", images))
    query = Embedder(settings).embed([_image(name, data) for name, data in images.items()])

    failed = [] if kept else ["blank"]
    assert [item for item, _, status in _states(store, "shop") if status == "blank"] == failed
    assert [failure.name for failure in query.failures] == failed


def test_list_of_undecodable_jpegs_gives_none() -> None:
    assert JpegDecoder(CPU, 32).decode([Jpeg(BROKEN["damaged"])] * 3) == [None] * 3


def test_stack_keeps_order_of_arrays_and_squares() -> None:
    decoder = JpegDecoder(CPU, 16)
    squares = decoder.decode([Jpeg(jpeg(1)), Jpeg(jpeg(2))])
    arrays = [np.full((16, 16, 3), number, np.uint8) for number in (7, 8)]

    mixed = decoder.stack([arrays[0], squares[1], squares[0], arrays[1]])

    expected = [torch.from_numpy(arrays[0]), squares[1], squares[0], torch.from_numpy(arrays[1])]
    assert torch.equal(mixed, torch.stack([_known(each) for each in expected]))
    assert decoder.stack(arrays).tolist() == np.stack(arrays).tolist()
    assert torch.equal(decoder.stack(squares), torch.stack([_known(each) for each in squares]))


# ---- failures of the device -------------------------------------------------------------


def test_undecodable_jpegs_cost_few_calls_and_no_other_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = JpegDecoder(CPU, 32)
    files = [jpeg(seed) for seed in range(64)]
    expected = decoder.decode([Jpeg(data) for data in files])
    refused = {sha256_of(files[at]) for at in (5, 40)}
    calls = _failing(
        monkeypatch,
        lambda seen: not refused.isdisjoint(seen),
        "Error while decoding JPEG images: Failed to decode batch: 4",
    )

    found = decoder.decode([Jpeg(data) for data in files])

    assert [at for at, square in enumerate(found) if square is None] == [5, 40]
    for at in set(range(64)) - {5, 40}:
        assert torch.equal(_known(found[at]), _known(expected[at]))
    assert len(calls) < 26


@pytest.mark.parametrize(
    "message",
    ["CUDA out of memory. Tried to allocate 2.00 GiB", "images: Failed to decode jpeg stream: 5"],
)
def test_list_is_decoded_in_parts_when_out_of_memory(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = JpegDecoder(CPU, 32)
    jpegs = [Jpeg(jpeg(seed)) for seed in range(11)]
    expected = decoder.decode(jpegs)
    calls = _failing(monkeypatch, lambda seen: len(seen) > 3, message)

    found = decoder.decode(jpegs)

    assert all(torch.equal(_known(a), _known(b)) for a, b in zip(found, expected, strict=True))
    assert [length for length in calls if length > 3] == [11, 5]
    calls.clear()
    decoder.decode(jpegs)
    assert sum(calls) == 11, "a list was tried that the memory is known not to hold"


def test_out_of_memory_for_single_jpeg_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = JpegDecoder(CPU, 32)
    _failing(monkeypatch, lambda _: True, "CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(EncoderError, match="cpu has no memory to decode one image"):
        decoder.decode([Jpeg(jpeg(1)), Jpeg(jpeg(2))])


def test_stream_is_synchronized_before_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torchvision's decoder does not wait for work on the caller's stream."""
    events: list[str] = []

    class Stream:
        def synchronize(self) -> None:
            events.append("done")

    def fails(seen: set[str]) -> bool:
        events.append("decode")
        return len(seen) > 2

    def stretched(decoder: JpegDecoder, pixels: torch.Tensor) -> torch.Tensor:
        events.append("read")
        return stretch_there(decoder, pixels)

    decoder = JpegDecoder(CPU, 32)
    decoder._stream = cast(torch.cuda.Stream, Stream())
    stretch_there = JpegDecoder._stretch
    monkeypatch.setattr(JpegDecoder, "_stretch", stretched)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "the caller's")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("empty"))
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda _, stream: events.append(stream), raising=False
    )
    _failing(monkeypatch, fails, "CUDA out of memory. Tried to allocate 2.00 GiB")

    decoder.decode([Jpeg(jpeg(seed)) for seed in range(4)])

    expected = ["done", "decode", "empty"]
    expected += 2 * ["done", "decode", "read", "read"]
    assert events == [*expected, "done", *4 * ["the caller's"]]


def test_decoder_that_never_works_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _failing(monkeypatch, lambda _: True, "torchvision not compiled with nvJPEG support")
    with pytest.raises(EncoderError, match=r"does not decode.*not compiled.*set 'decode: cpu'"):
        JpegDecoder(CPU, 32)

    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    with pytest.raises(EncoderError, match=r"does not decode.*set 'decode: cpu'"):
        JpegDecoder(CPU, 32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_decoding_without_gpu_raises(weights: str) -> None:
    with pytest.raises(EncoderError, match=r"decoded on a GPU, and this machine has none.*cpu'"):
        load_encoder(_settings(weights))


# ---- vectors ----------------------------------------------------------------------------


def test_vectors_agree_with_pillow_decoding(own: Encoder, weights: str) -> None:
    others = load_encoder(EncoderSettings(name=NAME, weights=weights, device="cpu"))

    found, errors = _embedded(own, FILES)
    expected, _ = _embedded(others, FILES)

    left = {kind for kind, data in FILES.items() if gpu_decodable_jpeg(data, own)}
    assert left == {*PLAIN, "damaged"}
    assert not any(gpu_decodable_jpeg(data, others) for data in FILES.values())
    assert found.keys() == expected.keys() == {*PLAIN, *SPECIAL}
    for kind in found:
        assert _unit(found[kind]) @ _unit(expected[kind]) > 0.9999, kind
        if kind in SPECIAL:
            np.testing.assert_allclose(found[kind], expected[kind], rtol=1e-4, atol=1e-5)
    assert errors == {
        "cut in half": "truncated",
        "damaged": "decode_error",
        "no image": "not_image",
    }


def test_vector_does_not_depend_on_the_batch(own: Encoder) -> None:
    files = {**FILES, **{f"more {seed}": jpeg(seed) for seed in range(20, 25)}}
    backwards = dict(reversed(files.items()))

    first, errors = _embedded(own, files, batch_size=4)

    again, _ = _embedded(own, backwards, batch_size=4)
    for kind, row in first.items():
        np.testing.assert_array_equal(row, again[kind])
    for size in (1, 3, 16):
        rows, same = _embedded(own, files, batch_size=size)
        assert same == errors
        for kind, row in first.items():
            np.testing.assert_allclose(_unit(rows[kind]), _unit(row), atol=1e-6)


def test_undecodable_jpeg_falls_back_to_pillow(
    own: Encoder, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = load_encoder(EncoderSettings(name=NAME, weights=weights, device="cpu"))
    expected, _ = _embedded(others, PLAIN)
    refused = sha256_of(PLAIN["gray"])
    _failing(monkeypatch, lambda seen: refused in seen, "Unknown chroma subsampling")

    engine = Engine(own, 4, cores=2)
    found, errors = _results(engine, own, PLAIN)

    assert not errors
    np.testing.assert_array_equal(found["gray"], expected["gray"])
    assert engine.timings.images == len(PLAIN)
    assert set(engine.timings.images_per_second()) == {"decode", "preprocess", "forward"}


@pytest.mark.usefixtures("on_a_cpu")
def test_devices_share_one_decoder(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = _embedded(load_encoder(_settings(weights)), FILES)
    devices = [CPU, torch.device("cpu", 0), torch.device("cpu", 0)]
    monkeypatch.setattr(torch_encoder, "resolve_devices", lambda _: devices)
    monkeypatch.setattr(onednn, "suits", lambda *_: False)  # as on GPUs

    spread = load_encoder(_settings(weights))
    found, _ = _embedded(spread, FILES, batch_size=2)

    assert isinstance(spread, TorchEncoder)
    assert len({id(replica) for replica in spread.replicas(2)}) == 3
    assert found.keys() == alone.keys()
    for kind, row in found.items():
        np.testing.assert_allclose(_unit(row), _unit(alone[kind]), atol=1e-5)


# ---- the stage, queries and evaluation --------------------------------------------------


@pytest.mark.usefixtures("on_a_cpu")
def test_gpu_decoding_keeps_statuses_and_separates_vectors(store: Store, weights: str) -> None:
    shards = fill(store, "shop", FILES, 2)
    fill(store, "plain", FILES)
    plain = _settings(weights).model_copy(update={"decode": "cpu", "device": "cpu"})

    reports = embed_shards(store, "shop", _settings(weights), shards)
    (other,) = embed_shards(store, "plain", plain, fill(store, "plain", FILES))

    assert _states(store, "shop") == _states(store, "plain")
    assert sum(report.embedded for report in reports) == other.embedded == len(PLAIN) + len(SPECIAL)
    assert all(report.reused == 0 for report in reports)
    assert all(
        report.images_per_second.keys() == other.images_per_second.keys() for report in reports
    )
    assert {report.fingerprint for report in reports} == {fingerprint(_settings(weights))}
    assert other.fingerprint != reports[0].fingerprint
    found = _vectors(store, "shop", _settings(weights))
    expected = _vectors(store, "plain", plain)
    assert found.keys() == expected.keys()
    assert min(float(found[key] @ expected[key]) for key in found) > 0.9999


@pytest.mark.usefixtures("on_a_cpu")
def test_early_embedding_gives_the_same_vectors(store: Store, weights: str) -> None:
    (shard,) = fill(store, "shop", PLAIN)
    fill(store, "other", PLAIN)
    embed_shards(store, "shop", _settings(weights), [shard])
    elsewhere = Store.open(f"{store.url}/elsewhere")
    fill(elsewhere, "shop", PLAIN)

    stage = EmbeddingStage(elsewhere, "shop", _settings(weights))
    assert stage.embed_available(shard) == len(PLAIN)
    report = stage.run(shard)

    assert (report.embedded_early, report.embedded) == (len(PLAIN), len(PLAIN))
    found = _vectors(elsewhere, "shop", _settings(weights))
    for key, vector in _vectors(store, "shop", _settings(weights)).items():
        np.testing.assert_array_equal(found[key], vector)


@pytest.mark.usefixtures("on_a_cpu")
def test_query_by_file_has_the_vector_of_the_stage(store: Store, weights: str) -> None:
    embed_shards(store, "shop", _settings(weights), fill(store, "shop", FILES))
    stored = _vectors(store, "shop", _settings(weights))
    embedder = Embedder(_settings(weights))

    by_file = embedder.embed([_image(name, data) for name, data in FILES.items()])
    by_pixels = embedder.embed([_image(name, decode(data)) for name, data in PLAIN.items()])

    files = list(FILES.values())
    assert [failure.name for failure in by_file.failures] == list(BROKEN)
    for position, vector in zip(by_file.positions.tolist(), by_file.vectors, strict=True):
        np.testing.assert_array_equal(vector, stored[sha256_of(files[position])])
    for data, vector in zip(PLAIN.values(), by_pixels.vectors, strict=True):
        assert float(vector @ stored[sha256_of(data)]) > 0.9999


@pytest.mark.usefixtures("on_a_cpu")
def test_file_with_known_vector_is_not_decoded(weights: str) -> None:
    data = PLAIN["small"]
    known = {sha256_of(data): np.array([1.0, 2.0], np.float32)}

    found = Embedder(_settings(weights)).embed([_image("small", data)], known_vectors=known)

    assert found.vectors.tolist() == [[1.0, 2.0]]
    assert [digests.sha256 for digests in found.digests] == [sha256_of(data)]


@pytest.mark.usefixtures("on_a_cpu")
def test_evaluation_works_with_gpu_decoding(store: Store, weights: str) -> None:
    embed_shards(store, "shop", _settings(weights), fill(store, "shop", PLAIN))

    report = EvaluationStage(
        store, "shop", EvaluationSettings(sample_size=2), _settings(weights)
    ).run()

    assert report.fingerprint == fingerprint(_settings(weights))
    assert report.recall["recompress"] == 1.0


# ---- nvJPEG -----------------------------------------------------------------------------


@needs_gpu
def test_gpu_squares_are_close_to_pillow() -> None:
    squares = JpegDecoder(_card(), SIDE).decode([Jpeg(data) for data in PLAIN.values()])

    found = {
        kind: square for kind, square in zip(PLAIN, squares, strict=True) if square is not None
    }
    assert {"small", "4:4:4", "progressive", "gray", "large"} <= found.keys()
    for kind, square in found.items():
        assert square.device == _card()
        expected = stretch(decode(PLAIN[kind]), SIDE).astype(int)
        assert np.abs(square.cpu().numpy().astype(int) - expected).mean() < 3, kind


@needs_gpu
def test_gpu_vectors_are_close_to_pillow_and_statuses_equal(weights: str) -> None:
    on_card = load_encoder(_settings(weights).model_copy(update={"num_gpus": 1}))
    others = load_encoder(
        EncoderSettings(name=NAME, weights=weights, device="cuda:0", precision="fp32")
    )

    found, errors = _embedded(on_card, FILES, batch_size=8)
    expected, same = _embedded(others, FILES, batch_size=8)

    assert errors == same
    assert found.keys() == expected.keys()
    assert min(float(_unit(found[key]) @ _unit(expected[key])) for key in found) > 0.99


@needs_gpu
def test_gpu_square_does_not_depend_on_list_or_load() -> None:
    """Lists are decoded into memory that kernels of the previous list have read."""
    decoder = JpegDecoder(_card(), SIDE)
    sizes = [(200 + 61 * seed % 900, 150 + 47 * seed % 700) for seed in range(64)]
    jpegs = [Jpeg(jpeg(seed, size)) for seed, size in enumerate(sizes)]
    alone = [_known(decoder.decode([one])[0]).cpu() for one in jpegs]
    load = torch.randn(4096, 4096, device=_card())

    for repeat in range(20):
        for _ in range(10):
            load = torch.tanh(load @ load)
        size = (1, 3, 16, 64)[repeat % 4]
        parts = [decoder.decode(jpegs[at : at + size]) for at in range(0, 64, size)]
        together = [_known(square).cpu() for part in parts for square in part]

        assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@needs_gpu
def test_gpu_memory_does_not_grow_with_lists() -> None:
    decoder = JpegDecoder(_card(), SIDE)
    jpegs = [Jpeg(jpeg(seed, (800, 600))) for seed in range(16)]

    def free_after(lists: int) -> int:
        for _ in range(lists):
            decoder.decode(jpegs)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(_card())[0]

    before = free_after(20)

    assert before - free_after(200) < 64 * 2**20


def _card() -> torch.device:
    return torch.device("cuda", 0)


def _settings(weights: str) -> EncoderSettings:
    return EncoderSettings(
        name=NAME, weights=weights, decode="gpu", precision="fp32", batch_size=4, min_side=1
    )


def _image(name: str, content: bytes | Image.Image) -> ImageRef:
    return ImageRef(name, lambda: content)


def _known(square: torch.Tensor | None) -> torch.Tensor:
    assert square is not None
    return square


def _failing(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[set[str]], bool], message: str
) -> list[int]:
    """Let torchvision fail on some lists of files; returns the lengths of all lists."""
    real = torchvision.io.decode_jpeg
    calls: list[int] = []

    def decode_jpeg(files: Sequence[torch.Tensor], **options: Any) -> Any:
        calls.append(len(files))
        if fails({sha256_of(file.numpy().tobytes()) for file in files}):
            raise RuntimeError(message)
        return real(files, **options)

    monkeypatch.setattr(torchvision.io, "decode_jpeg", decode_jpeg)
    return calls


def _embedded(
    encoder: Encoder, files: Mapping[str, bytes], batch_size: int = 4
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Features by name, and statuses of those without."""
    return _results(Engine(encoder, batch_size, cores=2), encoder, files)


def _results(
    engine: Engine, encoder: Encoder, files: Mapping[str, bytes]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    def load(name: str) -> Image.Image | Jpeg:
        left = gpu_decodable_jpeg(files[name], encoder)
        return left or decode(files[name], min_size=min_decode_size(encoder))

    rows: dict[str, NDArray[np.float32]] = {}
    errors = {}
    for result in engine.run(list(files), load):
        if isinstance(result, FailedImage):
            errors[result.key] = result.error.status
        elif isinstance(result, EncodedBatch):
            rows.update(zip(result.keys, result.features, strict=True))
    return rows, errors


def _unit(row: NDArray[np.float32]) -> NDArray[np.float64]:
    raw = row.astype(np.float64)
    unit: NDArray[np.float64] = raw / np.linalg.norm(raw)
    return unit


def _states(store: Store, name: str) -> list[tuple[Any, ...]]:
    table = embeddings_table(store, name)
    commit = table.latest()
    assert commit is not None
    return table.read(commit).sort("id").select("id", "sha256", "status").rows()


def _vectors(store: Store, name: str, settings: EncoderSettings) -> dict[str, NDArray[np.float32]]:
    wanted = {sha256 for _, sha256, status in _states(store, name) if status == "ok"}
    read = VectorTable(store, name, fingerprint(settings)).read(wanted)
    return dict(zip(read.sha256, read.vectors, strict=True))
