"""Loading by hub id, against a small hub on loopback that answers as the real one does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from mmdet_seg.backbones.checkpoint import open_checkpoint, read_arch
from tests.golden_data import load_case
from tests.test_backbones.checkpoint_cases import authors_state, write_layout, write_repository

ROOT = Path(__file__).parents[2]
COMMIT = {'main': 'a' * 40, 'v2': 'b' * 40}
CHILD = """
import json, sys
import torch
from mmdet_seg.backbones import InternViT
from mmdet_seg.backbones.checkpoint import read_arch

for source in sys.argv[1:]:
    if source.startswith('arch='):
        print(json.dumps(read_arch(source[5:]).depth))
        continue
    state = InternViT.from_pretrained(source).state_dict()
    print(json.dumps([len(state), sum(t.double().sum().item() for t in state.values())]))
"""


class Hub(ThreadingHTTPServer):
    """``/OWNER/NAME/resolve/REVISION/FILE`` for HEAD and GET, with the headers that matter."""

    def __init__(self, folder: Path) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.folder = folder
        self.asked: list[tuple[str, str]] = []

    @property
    def endpoint(self) -> str:
        return f'http://127.0.0.1:{self.server_address[1]}'

    def got(self) -> list[str]:
        """Files that were downloaded, in order."""
        return [path for method, path in self.asked if method == 'GET']


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        parts = self.path.strip('/').split('/')
        if len(parts) < 5 or parts[2] != 'resolve':
            return self._error(404, 'EntryNotFound')
        self.server.asked.append((self.command, '/'.join(parts[4:])))
        repository = self.server.folder / parts[0] / parts[1]
        if not repository.is_dir():
            return self._error(401, 'RepoNotFound')
        if 'gated' in parts[1]:
            return self._error(403, 'GatedRepo')
        commit = COMMIT.get(parts[3], parts[3])
        if commit not in COMMIT.values():
            return self._error(404, 'RevisionNotFound')
        file = repository / '/'.join(parts[4:])
        if not file.is_file():
            return self._error(404, 'EntryNotFound', commit)
        content = file.read_bytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header('X-Repo-Commit', commit)
        self.end_headers()
        if body:
            self.wfile.write(content)
        return None

    def _error(self, status: int, code: str, commit: str = '') -> None:
        self.send_response(status)
        self.send_header('X-Error-Code', code)
        if commit:
            self.send_header('X-Repo-Commit', commit)
        self.send_header('Content-Length', '0')
        self.end_headers()


@pytest.fixture
def hub(tmp_path):
    server = Hub(tmp_path / 'hub')
    (tmp_path / 'hub' / 'OpenGVLab').mkdir(parents=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope='module')
def case():
    return load_case('A_internvit_300m_like')


def in_a_process_of_its_own(sources, endpoint, home):
    """What CHILD prints for each source; huggingface_hub reads its settings once, on import."""
    kept = {k: v for k, v in os.environ.items() if k[:3] != 'HF_' and 'proxy' not in k.lower()}
    settings = {'HF_ENDPOINT': endpoint, 'HF_HOME': str(home), 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-c', CHILD, *sources]
    env = {**kept, **settings, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=home.parent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()[-len(sources) :]]


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Sets huggingface_hub, as imported, to an endpoint with an empty cache."""

    def use(endpoint, offline=False):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(constants, 'ENDPOINT', endpoint)
        template = f'{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'home' / 'hub'))
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', offline)
        monkeypatch.setattr('mmdet_seg.backbones.hub.getproxies', dict)

    return use


def line_of(source):
    """The one line that opening ``source`` ends with."""
    with pytest.raises(FileNotFoundError) as error:
        open_checkpoint(source)
    assert '\n' not in str(error.value)
    return str(error.value)


def checksum(case):
    state = authors_state(case)
    return [len(state), pytest.approx(sum(t.double().sum().item() for t in state.values()))]


def test_downloads_what_is_needed_once_and_works_offline(hub, case, here, tmp_path):
    """The shard of the language model, the .bin twin and the README stay where they are."""
    vision = {f'vision_model.{k}': v for k, v in case.state_dict.items()}
    language = {f'language_model.{i}': torch.ones(2) for i in range(3)}
    config = {'model_type': 'internvl_chat', 'vision_config': case.meta['config']}
    folder = write_repository(hub.folder / 'OpenGVLab' / 'Chat-1B', vision, config)
    first, second = (f'model-0000{i}-of-00002.safetensors' for i in (1, 2))
    (folder / 'model.safetensors').rename(folder / first)
    weight_map = {**dict.fromkeys(vision, first), **dict.fromkeys(language, second)}
    index = {'weight_map': weight_map}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    for name in (second, 'pytorch_model.bin', 'README.md'):
        (folder / name).write_text('not to be fetched')

    source, home = 'OpenGVLab/Chat-1B', tmp_path / 'home'
    sources = [f'arch={source}', source, f'{source}@main']
    depth = case.meta['config']['num_hidden_layers']
    lines = in_a_process_of_its_own(sources, hub.endpoint, home)
    assert lines == [depth, checksum(case), checksum(case)]
    assert hub.got() == ['config.json', 'model.safetensors.index.json', first]
    before = len(hub.asked)
    here(hub.endpoint, offline=True)
    assert read_arch(source).depth == depth
    stored = dict(open_checkpoint(source).tensors())
    assert all(torch.equal(stored[k], v) for k, v in authors_state(case).items())
    assert len(hub.asked) == before


def test_the_cache_answers_where_the_hub_does_not(hub, case, here):
    write_layout('hub_sharded', case, hub.folder / 'OpenGVLab')
    here(hub.endpoint)
    stored = dict(open_checkpoint('OpenGVLab/hub_sharded').tensors())
    here('http://127.0.0.1:9')
    again = dict(open_checkpoint('OpenGVLab/hub_sharded').tensors())
    assert all(torch.equal(again[k], stored[k]) for k in stored)
    assert len(stored) == len(case.state_dict)


def test_single_files_other_layouts_and_revisions(hub, case, here):
    owner = hub.folder / 'OpenGVLab'
    for kind in ('hub_bin', 'timm', 'native_chat'):
        write_layout(kind, case, owner)
    (owner / 'InternVL').mkdir()
    write_layout('pth_module', case, owner)[0].rename(owner / 'InternVL' / 'vit.pth')
    here(hub.endpoint)
    for source, layout in (
        ('OpenGVLab/hub_bin', 'hub'),
        ('OpenGVLab/timm@v2', 'timm'),
        ('OpenGVLab/native_chat', 'native'),
        ('OpenGVLab/InternVL/vit.pth', 'pth'),
        ('OpenGVLab/InternVL/vit.pth@v2', 'pth'),
    ):
        found = open_checkpoint(source, {'num_heads': 8})
        assert found.layout == layout
        expected = authors_state(case)
        assert all(torch.equal(tensor, expected[k]) for k, tensor in found.tensors())


def test_a_published_name_means_its_repository(hub, here):
    here(hub.endpoint)
    assert line_of('6b-224px').startswith('OpenGVLab/InternViT-6B-224px on http://127.0.0.1:')


def test_one_line_for_what_goes_wrong(hub, case, here):
    owner = hub.folder / 'OpenGVLab'
    path, _, _ = write_layout('hub_sharded', case, owner)
    (path / 'model-00003-of-00003.safetensors').unlink()
    write_layout('hub', case, owner)[0].rename(owner / 'gated')
    (owner / 'Empty').mkdir()
    (owner / 'Empty' / 'README.md').write_text('nothing')
    here(hub.endpoint)
    for source, words in (
        ('OpenGVLab/Nowhere', 'is not there, or is private: check the name, or set HF_TOKEN'),
        ('OpenGVLab/hub_sharded@v9', 'has no such revision'),
        ('OpenGVLab/gated', 'asks for consent'),
        ('OpenGVLab/Empty', 'has none of model.safetensors.index.json, model.safetensors, '),
        ('OpenGVLab/Empty/none.pth', 'has no file none.pth'),
        ('OpenGVLab/a..b', 'is not a name that a hub can have'),
        ('OpenGVLab/hub_sharded', 'lacks model-00003-of-00003.safetensors, which its '),
    ):
        line = line_of(source)
        assert words in line
        assert line.startswith(source.removesuffix('/none.pth'))


@pytest.mark.parametrize('offline', [False, True])
def test_no_connection_names_the_ways_out(offline, here, tmp_path):
    here('http://127.0.0.1:9', offline)
    line = line_of('OpenGVLab/Any')
    assert line.startswith(f'config.json of OpenGVLab/Any is not in the cache ({tmp_path}')
    assert ('HF_HUB_OFFLINE forbids' if offline else 'http://127.0.0.1:9 did not answer') in line
    for way in ('set HF_ENDPOINT to', 'fill the cache', 'give a local directory'):
        assert way in line
