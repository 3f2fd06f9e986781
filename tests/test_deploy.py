"""What `deploy/` holds, as far as it runs here."""

import base64
import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from conftest import tone
from fastapi.testclient import TestClient

from evoxtral import audio, cli
from evoxtral.model import hub
from evoxtral.serve.api import create_app

ROOT = Path(__file__).parents[1]
CLIP = audio.wav_bytes(tone(0.6))


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def handler(checkpoint):
    return loaded("endpoint_handler").EndpointHandler(str(Path(checkpoint.base).parent))


def test_the_endpoint_answers_bytes_and_base64_alike(handler):
    whole = handler({"inputs": CLIP, "parameters": {"variant": "all"}})
    assert list(whole["variants"]) == ["base", "sft", "rl"] and whole["duration"] == pytest.approx(0.6)
    alone = handler({"inputs": base64.b64encode(CLIP).decode()})
    assert list(alone["variants"]) == ["rl"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"inputs": "/etc/hostname"}, "as base64"),
        ({"inputs": "https://example.org/a.wav"}, "as base64"),
        ({}, "as base64"),
        ({"inputs": CLIP, "parameters": {"variant": "best"}}, "no variant 'best'"),
        ({"inputs": CLIP, "parameters": {"temperature": 1}}, "Unknown parameter 'temperature'"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(handler, data, said):
    assert said in handler(data)["error"]


def test_the_manifest_probes_routes_that_exist_and_starts_a_command_that_exists(checkpoint):
    documents = {d["kind"]: d for d in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())}
    pod = documents["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    client = TestClient(create_app(checkpoint))  # its weights are not there yet
    probes = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
    assert {probe: client.get(path).status_code for probe, path in probes.items()} == {
        "startup": 200, "readiness": 503, "liveness": 200,
    }  # fmt: skip
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    args = cli.build_parser().parse_args(container["args"][3:])
    assert (args.model, args.token_file) == ("mini-3b", "/tokens/tokens")
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_modal_s_class_answers_when_it_is_run_locally(monkeypatch):
    pytest.importorskip("modal", reason="for this test: pip install modal==1.6.4")
    module = loaded("modal_app")
    monkeypatch.setattr(module, "MODEL", "tiny")
    client = TestClient(module.Evoxtral().serve.local())  # read and load first, as a container would
    assert client.get("/ready").status_code == 200
    answer = client.post("/transcribe", files={"file": ("a.wav", CLIP)}, data={"variant": "all"})
    assert answer.status_code == 200 and answer.json()["model"] == "tiny"


def test_the_image_can_hold_the_weights_of_a_model(monkeypatch):
    (code,) = re.findall(r'python -c "(.+?)"; fi$', (ROOT / "Dockerfile").read_text(), re.M | re.S)
    fetched = []
    fetch = hub.fetch
    monkeypatch.setattr(hub, "fetch", lambda reference: fetched.append(fetch(reference)))
    monkeypatch.setenv("EVOXTRAL_MODEL", "tiny")
    exec(code.replace("\\\n", " "), {})
    assert len(fetched) == 3 and all(folder.is_dir() for folder in fetched)


def test_the_image_runs_as_nobody_special_and_starts_a_command_that_exists():
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", text, re.M) == ["10001"]
    (command,) = re.findall(r"^CMD (\[\"python.+\])$", text, re.M)
    args = cli.build_parser().parse_args(yaml.safe_load(command)[3:])
    assert args.host == "0.0.0.0"
    for source in re.findall(r"^COPY (.+) \S+$", text, re.M):
        assert all((ROOT / name).exists() for name in source.split())


def test_the_image_s_steps_can_be_run_without_docker():
    """A kind of instruction that the script does not know would be left out in silence."""
    found = [*loaded("run_image_steps").instructions()]
    done = {"ARG", "ENV", "RUN", "COPY", "CMD", "HEALTHCHECK"}
    assert {name for name, _ in found} == done | {"FROM", "WORKDIR", "USER", "EXPOSE", "VOLUME"}
    (check,) = [rest for name, rest in found if name == "HEALTHCHECK"]
    assert yaml.safe_load(check[check.index("CMD") + 3 :])[0] == "python"
