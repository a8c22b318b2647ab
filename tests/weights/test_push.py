"""`push` against a stand-in of the hub's HTTP API on this machine: what is sent, asked and said."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

import terrazzo
from foreign_files import NAMES, random_model
from terrazzo.errors import ConfigError, OutputError, ServiceError, TerrazzoError
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.push import push

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # of huggingface_hub's own upload
    pytest.mark.filterwarnings("ignore:transformers' image processor has no words"),
]
TOKEN = "hf_secretsecretsecret"


class Hub:
    """What was asked of the stand-in, and the files that it was given."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.refuses = 0
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        self.hub.tokens.add(self.headers.get("Authorization"))
        files = [
            {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in self.hub.files.items()
        ]
        is_tree = "/tree/" in self.path
        self._answer(files if is_tree else {"id": "me/street", "sha": "0" * 40, "siblings": [], "tags": []})

    def do_PUT(self) -> None:
        data = self._body()
        self.hub.objects[hashlib.sha256(data).hexdigest()] = data
        self._answer({})

    def do_POST(self) -> None:
        body, hub = self._body(), self.hub
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuses:
            self._answer({"error": "no"}, hub.refuses)
        elif self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self._answer({"url": f"{hub.address}/me/street", "name": "me/street"})
        elif self.path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---\n")[1]
            assert yaml.safe_load(head)["pipeline_tag"] == "image-segmentation"
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": self._mode(file["path"])} for file in asked]
            self._answer({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        elif self.path.endswith("/objects/batch"):
            asked = json.loads(body)["objects"]
            actions = {"upload": {"href": f"{hub.address}/put", "header": {}}}
            self._answer({"transfer": "basic", "objects": [{**entry, "actions": actions} for entry in asked]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
            self._answer({"commitUrl": f"{hub.address}/me/street/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self._answer({"error": self.path}, 404)

    @staticmethod
    def _mode(name: str) -> str:
        return "lfs" if name.endswith(".safetensors") else "regular"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    stand_in = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": stand_in}))
    stand_in.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield stand_in
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ours"
    record = {"licence": "MIT", "val_mIoU": 51.25, "data": "My photos: [1]", "train_photos": 9}
    labels = LabelSpec.from_names(NAMES)
    save_folder(folder, TrainedModel("segformer_b0", random_model(), labels, Preprocess(), record))
    return folder


def head_of(card: bytes) -> dict[str, Any]:
    head: dict[str, Any] = yaml.safe_load(card.decode().split("---\n")[1])
    return head


def test_weights_configuration_and_card_arrive(
    hub: Hub, model: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pushed = push(model, "me/street", private=True)
    assert pushed.address == f"{hub.address}/me/street"
    (created,) = hub.created
    assert created.get("private") is True or created.get("visibility") == "private"  # as the library's version says it
    assert hub.created[0]["name"] == "street" and hub.created[0].get("organization") == "me"
    assert {name: len(data) for name, data in hub.files.items()} == dict(pushed.files)
    assert hub.files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    head = head_of(hub.files["README.md"])
    assert head["library_name"] == "terrazzo" and head["license"] == "mit" and head["metrics"] == ["mean_iou"]
    assert head["datasets"] == ["my-photos-1"]
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 51.25 and result["dataset"]["name"] == "My photos: [1]"
    assert b'predict("photo.jpg", "me/street")' in hub.files["README.md"]
    assert hub.tokens == {f"Bearer {TOKEN}"}
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err

    for name, data in hub.files.items():  # what the hub has is a model
        (tmp_path / name).write_bytes(data)
    assert terrazzo.load(tmp_path).labels.names == tuple(NAMES)

    with pytest.raises(OutputError, match=r"me/street holds 'README.md', 'config.json', 'model.safetensors' already"):
        push(model, "me/street")
    push(model, "me/street", overwrite=True)


def test_for_transformers(hub: Hub, model: Path) -> None:
    push(model, "me/street", to="hf")
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert head_of(hub.files["README.md"])["library_name"] == "transformers"
    assert b'from_pretrained("me/street")' in hub.files["README.md"]


def test_a_dry_run_sends_nothing(hub: Hub, model: Path) -> None:
    pushed = push(model, "me/street", dry_run=True)
    assert pushed.address is None and list(pushed.files) == ["README.md", "config.json", "model.safetensors"]
    assert hub.created == [] and hub.tokens == set()


@pytest.mark.parametrize("status", [401, 403])
def test_the_hub_lets_nobody_in(hub: Hub, model: Path, status: int) -> None:
    hub.refuses = status
    with pytest.raises(ServiceError, match="does not let you write me/street") as caught:
        push(model, "me/street")
    assert caught.value.code == "hub-login" and "hf auth login" in caught.value.fix


def test_there_is_no_hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ServiceError, match="the hub cannot be reached") as caught:
        push(model, "me/street")
    assert caught.value.code == "hub-offline"


@pytest.mark.parametrize("name", ["street", "a/b/c", "me/street?x", "../x", "me/" + "x" * 200])
def test_names_that_cannot_be(model: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"name on the hub|whose the model is"):
        push(model, name)


def test_a_report_that_is_not_there(model: Path) -> None:
    with pytest.raises(TerrazzoError, match=r"has no report.html"):
        push(model, "me/street", report=True)


def test_a_run_sends_its_own_card_and_its_page_where_asked(hub: Hub, model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in model.iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model" / "README.md").write_text("---\npipeline_tag: image-segmentation\n---\nby hand, OWNER/NAME\n")
    (tmp_path / "report.html").write_text("<p>page")
    push(tmp_path, "me/street", report=True)
    assert hub.files["README.md"].endswith(b"by hand, me/street\n") and hub.files["report.html"] == b"<p>page"


def test_places_of_this_machine_are_told(model: Path, tmp_path: Path) -> None:
    trained = terrazzo.load(model)
    record = {"recipe": {"model": {"weights": "/home/me/start.pth"}}}
    save_folder(tmp_path / "m", TrainedModel("segformer_b0", trained.network, trained.labels, Preprocess(), record))
    with pytest.warns(TerrazzoWarning, match=r"names places on this machine, .*: '/home/me/start.pth'"):
        push(tmp_path / "m", "me/street", dry_run=True)
