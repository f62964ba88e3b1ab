"""Who gets in where an environment is served."""

import ipaddress
import json

import psutil
import pytest
import trustme
from serving_envs import Trouble, running, served
from starlette.testclient import TestClient
from websockets.sync.client import connect

from grpo_agents.env import make_env
from grpo_agents.remote.server import Limits, make_app, make_server, serve
from grpo_agents.remote.wire import RemoteFailure

PATHS = ["/metadata", "/schema"]
SHOWN = [{}, {"authorization": "Bearer other"}, {"authorization": "s3cret!"}, {"authorization": "Bearer "}]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "localhost.example", "127.0.0.1.example"])
def test_beyond_this_machine_a_token_is_needed(host):
    with pytest.raises(ValueError, match=f"--host {host} lets others in, and there is no token"):
        serve(Trouble, "it", Limits(), host=host)


class Started(Exception):
    """Raised as soon as a server listens."""


@pytest.mark.parametrize("host", [{}, {"host": "localhost"}], ids=str)
def test_unless_told_it_listens_to_this_machine_alone_and_needs_no_token(host):
    listening = []

    def started(url):
        own = psutil.Process().net_connections()
        listening.extend(one.laddr.ip for one in own if url.endswith(f":{one.laddr.port}") and one.status == "LISTEN")
        raise Started

    with pytest.raises(Started):
        serve(Trouble, "it", Limits(), port=0, started=started, **host)
    assert len(listening) == 1
    assert ipaddress.ip_address(listening[0]).is_loopback


def test_an_empty_token_is_none():
    with pytest.raises(ValueError, match=r"Limits\.token is empty"):
        Limits(token="")


@pytest.mark.parametrize("shown", SHOWN)
def test_without_the_token_nobody_learns_more_than_that_a_server_is_there(shown):
    client = TestClient(make_app(Trouble, "it", Limits(token="s3cret")))
    assert client.get("/health", headers=shown).json() == {"status": "healthy"}
    for path in PATHS:
        refused = client.get(path, headers=shown)
        assert (refused.status_code, refused.text) == (401, "a token is wanted: Authorization: Bearer …")
        assert client.get(path, headers={"authorization": "Bearer s3cret"}).status_code == 200


def test_web_pages_get_in_nowhere_and_with_no_token():
    client = TestClient(make_app(Trouble, "it", Limits(token="s3cret")))
    for path in PATHS:
        headers = {"origin": "http://localhost", "authorization": "Bearer s3cret"}
        assert client.get(path, headers=headers).status_code == 403


def test_no_option_of_the_environment_comes_over_the_wire():
    made = []

    def make(*arguments, **options):
        made.append((arguments, options))
        return Trouble()

    def begun(url, **more):
        with connect(url.replace("http", "ws") + "/ws") as there:
            there.send(json.dumps({"type": "reset", "data": {"seed": 1, "task": {"do": "talk"}, **more}}))
            return json.loads(there.recv())

    with served(make) as url:
        plain = begun(url)
        assert plain["data"]["observation"]["messages"]
        assert begun(url, options={"prices": 0}, env="os:getcwd", tasks="tasks.py:all", split="test") == plain
    assert made == [((), {})] * 2


def test_over_https_a_server_is_played_whose_certificate_is_trusted(tmp_path, monkeypatch):
    authority, trusted = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    monkeypatch.setenv("GRPO_AGENTS_ENV_TOKEN", "s3cret")
    server = make_server(Trouble, "it", Limits(token="s3cret"))
    server.config.ssl_certfile = tmp_path / "server.pem"
    with running(server) as plain:
        url = plain.replace("http", "https")
        with pytest.raises(RemoteFailure, match=rf"^{url} shows a certificate that is not trusted .*: name .*SSL_CERT"):
            make_env(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        env = make_env(url)
        (greeting,), _ = env.reset(seed=3, options={"task": {"do": "talk"}})
        env.close()
    (expected,), _ = Trouble().reset(seed=3, options={"task": {"do": "talk"}})
    assert greeting == expected


def test_a_server_without_https_is_not_asked_again_and_again_for_it():
    with served(Trouble) as url, pytest.raises(RemoteFailure, match=r"^https://\S* does not speak https \("):
        make_env(url.replace("http", "https"))
