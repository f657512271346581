"""Flags, environment, file, defaults; and everything unknown refused."""

from pathlib import Path

import pytest

from mattebox_server.errors import StartupError
from mattebox_server.security.secret_files import TlsFiles
from mattebox_server.settings import Settings, load_settings, unknown_variables

MODEL = ["--model", "a.onnx"]


def test_flags_beat_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mattebox.toml"
    file.write_text('model = ["f.onnx", "g.onnx"]\naddress = "f:1"\nmax_queue = 3\ngrace_seconds = 1.5\n')
    monkeypatch.setenv("MATTEBOX_CONFIG", str(file))
    monkeypatch.setenv("MATTEBOX_ADDRESS", "e:1")
    monkeypatch.setenv("MATTEBOX_MAX_QUEUE", "4")
    settings = load_settings(["--max-queue", "5"])
    assert settings.model == ["f.onnx", "g.onnx"]
    assert (settings.address, settings.max_queue, settings.grace_seconds) == ("e:1", 5, 1.5)
    assert load_settings(["--config", str(file), "--address", "c:1"]).address == "c:1"


def test_models_by_flag_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings([*MODEL, "--model", "b.onnx"]).model == ["a.onnx", "b.onnx"]
    monkeypatch.setenv("MATTEBOX_MODEL", "c.onnx,d.onnx")
    assert load_settings([]).model == ["c.onnx", "d.onnx"]
    assert load_settings(MODEL).model == ["a.onnx"]


def test_names_of_networks_and_accepted_licences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATTEBOX_MODEL", "u2netp,bria-rmbg,./modnet")
    monkeypatch.setenv("MATTEBOX_ACCEPT_LICENCE", "bria-rmbg")
    settings = load_settings(["--offline"])
    assert settings.model == ["u2netp", "bria-rmbg", "./modnet"]
    assert (settings.making.offline, settings.making.accepted) == (True, ["bria-rmbg"])
    monkeypatch.delenv("MATTEBOX_MODEL")
    assert load_settings(["--list-models"]).model == []


def test_the_engine_gets_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--precision", "bf16", "--sessions", "2", "--max-batch", "3", "--cache-dir", "c"]
    options = load_settings([*MODEL, *flags, "--threads", "6"]).engine
    assert (options.precision, options.sessions, options.max_batch) == ("bf16", 2, 3)
    assert (options.cache_dir, options.threads) == (Path("c/compiled"), 6)
    gpu = load_settings([*MODEL, "--provider", "cuda", "--gpu-memory-bytes", "2000000000"]).engine
    assert (gpu.provider, gpu.gpu_memory_bytes) == ("cuda", 2_000_000_000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_settings(MODEL).engine.cache_dir == tmp_path / "mattebox" / "compiled"
    assert load_settings([*MODEL, "--cache-dir", "off"]).engine.cache_dir is None


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mattebox.toml"
    file.write_text("max_request = 3\n")
    with pytest.raises(StartupError, match="max_request: Extra inputs"):
        load_settings([*MODEL, "--config", str(file)])
    with pytest.raises(SystemExit):
        load_settings([*MODEL, "--max-request", "3"])


def test_unknown_variables_are_found_but_those_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MATTEBOX_ADRESS", "MATTEBOX_PORT_50051_TCP_PROTO", "MATTEBOX_CLIENT_X", "MATTEBOX_MAX_QUEUE"):
        monkeypatch.setenv(name, "3")
    assert load_settings(MODEL).max_queue == 3
    assert unknown_variables() == {"MATTEBOX_ADRESS": "MATTEBOX_ADDRESS", "MATTEBOX_PORT_50051_TCP_PROTO": ""}


def test_few_settings() -> None:
    assert len(Settings.model_fields) <= 31


def test_memory_is_divided_so_that_its_worst_case_is_the_setting() -> None:
    settings = load_settings([*MODEL, "--memory-bytes", str(3 * 2**30)])
    memory = settings.memory
    assert memory.work_bytes + memory.receiving * settings.max_message_bytes <= 3 * 2**30
    assert memory.work_bytes == 9 * 2**28
    assert memory.receiving == 11
    assert load_settings([*MODEL, "--memory-bytes", str(100 * 2**30)]).memory.receiving == 64


def test_memory_by_default_is_three_quarters_of_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mattebox_server.settings.available_bytes", lambda: 8 * 2**30)
    assert load_settings(MODEL).memory.work_bytes == 0.75 * 0.75 * 8 * 2**30
    monkeypatch.setattr("mattebox_server.settings.available_bytes", lambda: 2**30)
    settings = load_settings(MODEL)  # enough for the largest photo, however little there is
    assert settings.memory.work_bytes >= settings.max_message_bytes + 20 * settings.max_photo_pixels
    assert settings.memory.receiving >= 1


def test_who_is_a_proxy() -> None:
    settings = load_settings([*MODEL, "--trusted-proxies", "10.0.0.0/8", "--trusted-proxies", "unix"])
    assert settings.trusted_proxies == ["10.0.0.0/8", "unix"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "model is missing"),
        (["--model", "u2nett"], "model: Value error, no network has the name u2nett; the nearest names are u2net,"),
        (["--model", "bria-rmbg"], "bria-rmbg, CC-BY-NC-4.0, forbids commercial use; --accept-licence bria-rmbg"),
        ([*MODEL, "--accept-licence", "bria"], "accept_licence: Value error, no network has the name bria"),
        ([*MODEL, "--threads", "0"], "threads"),
        ([*MODEL, "--max-photo-pixels", "200000000"], "max_photo_pixels"),
        ([*MODEL, "--memory-bytes", "5"], "memory_bytes is below 179"),
        (
            [*MODEL, "--trusted-proxies", "proxy.example"],
            "trusted_proxies: Value error, 'proxy.example'",
        ),
        (
            [*MODEL, "--trusted-proxies", "10.1.2.3", "--token-file", "tokens"],
            "trusted_proxies would have no effect with token_file",
        ),
        ([*MODEL, "--config", "nowhere.toml"], "can't read the settings file nowhere.toml"),
        ([*MODEL, "--grace-seconds", "soon"], "grace_seconds"),
        ([*MODEL, "--max-batch", "0"], "max_batch"),
        ([*MODEL, "--precision", "int4"], "precision"),
        ([*MODEL, "--provider", "openvino", "--gpu-memory-bytes", "9999999999"], "gpu_memory_bytes would have no"),
        ([*MODEL, "--max-photo-bytes", "1073741824"], "max_photo_bytes"),
        ([*MODEL, "--tls-certificate", "c.pem"], "tls_certificate and tls_key need each other"),
        ([*MODEL, "--tls-key", "k.pem"], "tls_certificate and tls_key need each other"),
        ([*MODEL, "--tls-client-ca", "a.pem"], "tls_client_ca would have no effect without tls_certificate"),
    ],
)
def test_wrong_values_name_the_setting(argv: list[str], says: str) -> None:
    with pytest.raises(StartupError, match=says):
        load_settings(argv)


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("model = [")
    with pytest.raises(StartupError, match="not valid TOML"):
        load_settings(["--config", str(file)])
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StartupError, match="not valid TOML"):
        load_settings(["--config", str(file)])
    file.write_text('config = "other.toml"')
    with pytest.raises(StartupError, match="only one"):
        load_settings([*MODEL, "--config", str(file)])
    with pytest.raises(StartupError, match="Is a directory"):
        load_settings([*MODEL, "--config", str(tmp_path)])


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "localhost:", ":50051", "h:99999", "h:-5", "h:http", "::1:5", "unix:", "unix-abstract:5", "vsock:5"],
)
def test_addresses_that_grpc_would_take_for_others(address: str) -> None:
    with pytest.raises(StartupError, match="address: Value error, must be HOST:PORT"):
        load_settings([*MODEL, "--address", address])


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:5", "localhost:65535", "unix:/tmp/x"])
def test_addresses(address: str) -> None:
    assert load_settings([*MODEL, "--address", address]).address == address


def test_tls_and_leave_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = load_settings(MODEL)
    assert (bare.tls_files, bare.token_file, bare.allow_insecure) == (None, None, False)
    flags = ["--tls-certificate", "c.pem", "--tls-key", "k.pem", "--tls-client-ca", "a.pem"]
    assert load_settings([*MODEL, *flags]).tls_files == TlsFiles(Path("c.pem"), Path("k.pem"), Path("a.pem"))
    assert load_settings([*MODEL, *flags[:4]]).tls_files == TlsFiles(Path("c.pem"), Path("k.pem"))
    assert load_settings([*MODEL, "--allow-insecure"]).allow_insecure
    monkeypatch.setenv("MATTEBOX_ALLOW_INSECURE", "true")
    assert load_settings(MODEL).allow_insecure
    assert not load_settings([*MODEL, "--no-allow-insecure"]).allow_insecure


@pytest.mark.parametrize("address", ["9464", "127.0.0.1", "unix:/tmp/x", "::1:5", "127.0.0.1:99999"])
def test_addresses_that_metrics_can_not_have(address: str) -> None:
    with pytest.raises(StartupError, match="metrics_address: Value error, must be HOST:PORT"):
        load_settings([*MODEL, "--metrics-address", address])


@pytest.mark.parametrize(
    "endpoint",
    ["collector:4317", "grpc://collector:4317", "http://collector", "http://collector:4317/v1/traces", "http://c:0"],
)
def test_endpoints_that_would_not_get_the_traces(endpoint: str) -> None:
    with pytest.raises(StartupError, match="otlp_endpoint: Value error, must be http://HOST:PORT or https://HOST:PORT"):
        load_settings([*MODEL, "--otlp-endpoint", endpoint])


def test_telemetry_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(MODEL)
    assert (settings.metrics_address, settings.otlp_endpoint) == (None, None)
    monkeypatch.setenv("MATTEBOX_METRICS_ADDRESS", "0.0.0.0:9464")
    monkeypatch.setenv("MATTEBOX_OTLP_ENDPOINT", "https://collector:4317")
    settings = load_settings(MODEL)
    assert (settings.metrics_address, settings.otlp_endpoint) == ("0.0.0.0:9464", "https://collector:4317")


def test_empty_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATTEBOX_CONFIG", "")
    assert load_settings(MODEL).config is None
    monkeypatch.setenv("MATTEBOX_MODEL", "")
    with pytest.raises(StartupError, match="model"):
        load_settings([])


def test_the_largest_message_is_one_that_grpc_can_count() -> None:
    assert load_settings([*MODEL, "--max-photo-bytes", str(1023 * 2**20)]).max_message_bytes < 2**31
