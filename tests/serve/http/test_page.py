"""The page's files as they are sent: whole, light, cached by content, under a strict policy."""

import gzip
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from setuptools import Distribution
from setuptools.command.build_py import build_py
from starlette.testclient import TestClient

from deployments.entrance.limits import IngressLimits, LiveLimits
from serve.http.page.files import STATIC, Page
from serve.http.routes import build_api
from tests.serve.http.test_routes import SPEECH
from tests.support.deaf import Deaf

ROOT = Path(__file__).parents[3]
MAX_BYTES = 300_000
SCRIPTS = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.glob("js/*.js"))


@pytest.fixture
def http() -> TestClient:
    return TestClient(build_api(Deaf(SPEECH)))


def test_the_page_is_at_the_root_under_its_policy(http: TestClient) -> None:
    answers = [http.get("/"), http.get("/")]
    nonces = set()
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        (nonce,) = re.findall(r"'nonce-([\w-]{20,})'", policy)
        assert f'nonce="{nonce}"' in answer.text and "{nonce}" not in answer.text
        nonces.add(nonce)
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(nonces) == 2
    assert http.head("/").status_code == 200


@pytest.mark.parametrize(("most", "said"), [(64, "on"), (0, "off")])
def test_it_says_whether_there_is_live_speech(most: int, said: str) -> None:
    ingress = Deaf(SPEECH)
    ingress.rules = replace(ingress.rules, limits=IngressLimits(live=LiveLimits(most)))
    text = TestClient(build_api(ingress)).get("/").text
    assert f'data-live="{said}"' in text and "{live}" not in text


def test_it_can_be_turned_off() -> None:
    http = TestClient(build_api(Deaf(SPEECH, page=False)))
    for path in ("/", "/page/page.css"):
        answer = http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_files_are_packed_and_sent_once(http: TestClient) -> None:
    plain = http.get("/page/js/main.js", headers={"accept-encoding": "identity"})
    packed = http.get("/page/js/main.js")
    assert packed.headers["content-encoding"] == "gzip" and packed.text == plain.text
    assert "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
    etag = packed.headers["etag"]
    again = http.get("/page/js/main.js", headers={"if-none-match": etag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)


@pytest.mark.parametrize("path", ["nope.js", "../files.py", "%2e%2e/files.py", "index.html", "js/"])
def test_there_are_no_other_files(http: TestClient, path: str) -> None:
    answer = http.get(f"/page/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_whole_page_is_light() -> None:
    texts = [STATIC / path for path in Page().paths if not path.endswith(".mp3")]
    packed = [len(gzip.compress(path.read_bytes())) for path in (*texts, STATIC / "index.html")]
    assert sum(packed) < MAX_BYTES


def test_whatever_is_named_is_there() -> None:
    paths = set(Page().paths)
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:href|src)="page/([^"]+)"', index))
    assert named <= paths
    for script in SCRIPTS:
        text = (STATIC / script).read_text(encoding="utf-8")
        for other in re.findall(r'(?:from|import\() ?"(\.[^"]+)"', text):
            path = (STATIC / script).parent.joinpath(other).resolve()
            assert path.relative_to(STATIC.resolve()).as_posix() in paths, other


@pytest.mark.parametrize("path", [*SCRIPTS, "index.html", "page.css"])
def test_no_other_host_is_named(path: str) -> None:
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", (STATIC / path).read_text("utf-8"))


def test_what_is_installed_has_all_files_and_licences() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        package_data = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    name = "serve.http.page"
    built = build_py(Distribution({"packages": [name], "package_data": package_data}))
    built.finalize_options()
    built.manifest_files = {}  # no version control is asked
    found = built.find_data_files(name, str(STATIC.parent.relative_to(Path.cwd())))
    data = {Path(path).resolve().relative_to(STATIC.resolve()).as_posix() for path in found}
    assert set(Page().paths) | {"index.html"} <= data
    for library in STATIC.glob("vendor/*"):
        assert f"vendor/{library.name}/LICENSE" in data
        assert library.name in (ROOT / "NOTICE").read_text(encoding="utf-8").lower()
