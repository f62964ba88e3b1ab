import functools
import tomllib

import pytest

from grpo_agents.config import list_keys, load_config, make_config, save_config
from runs import grpo


def wrong(**changes):
    settings = {"model": {"path": "x"}, "env": {"id": "grpo_agents/Orchestra-v0"}}
    for key, value in changes.items():
        *sections, last = key.split("__")
        data = settings
        for section in sections:
            data = data.setdefault(section, {})
        data[last] = value
    return settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner__optimiser": {}}, r"unknown key learner\.optimiser\. Did you mean 'optimizer'\?"),
        ({"rollout__group_sise": 4}, r"unknown key rollout\.group_sise\. Did you mean 'group_size'\?"),
        ({"learner__optimizer__zzz": 4}, r"unknown key learner\.optimizer\.zzz\. There are: name, lr, "),
        ({"modle": {}}, r"unknown key modle\. Did you mean 'model'\?"),
        ({"model__lora": {"ranc": 2}}, r"unknown key model\.lora\.ranc\. Did you mean 'rank'\?"),
        ({"train__steps": "many"}, r"train\.steps: .*integer.*'many'"),
        ({"train__steps": 0}, r"train\.steps: .*greater than or equal to 1.*0"),
        ({"rollout__truncated": "drop"}, r"rollout\.truncated: .*'keep', 'mask' or 'worst'.*'drop'"),
        ({"rollout__group_size": 1}, r"rollout\.group_size is 1: method 'grpo' compares .*at least 2"),
        ({"rollout__top_p": 0.9}, r"rollout\.top_p is 0\.9: .*may leave the whole vocabulary\. Set rollout\.top_k as"),
        ({"rollout__temperature": 0}, r"rollout\.temperature is 0"),
        ({"method": {"name": "sft"}}, r"method 'sft' learns from demonstrations here: set source\.path"),
        ({"method": {"name": "grop"}}, r"unknown method 'grop'\. Did you mean 'grpo'"),
        ({"method": {"clip_hihg": 1}}, r"unknown key method\.clip_hihg\. Did you mean 'clip_high'\?"),
        ({"method": {"clip_low": 2, "kl": "k9"}}, r"(?s)  method\.clip_low: .*\n  method\.kl: .*'k1'"),
        ({"rewards": {"vector": "outcome"}}, r'rewards\.vector is "outcome", and a list is wanted: .*\["outcome"\]'),
        ({"source": {"kind": "pairs"}}, r"source\.kind is 'pairs', and method 'grpo' learns from policy, stored"),
        ({"source": {"path": "x"}}, r"source\.path is set, and source\.kind 'policy' samples .*: leave it out, or"),
        ({"source": {"rescore": True}}, r"source\.rescore computes stored rewards again, and source\.kind is 'policy'"),
        ({"source": {"other_preference": True}}, r"source\.other_preference is for what is stored, and .* is 'policy'"),
        ({"source": {"kind": "stored"}}, r"method 'grpo' learns from stored here: set source\.path"),
        ({"source": {"kind": "stored", "path": "x"}, "method": {"tis": 2.0}}, r"Set learner\.old_logprobs = "),
        ({"source": {"kind": "frozen"}, "rollout": {"top_p": 0.3}, "method": {"name": "rft"}}, r"Set rollout\.top_k"),
        ({"method": {"name": "dpo"}, "source": {"kind": "frozen"}, "rollout": {"group_size": 1}}, r"'dpo' compares"),
        ({"method": {"name": "ppo", "scale": "none"}}, r"method 'ppo' does not use scale: leave it out"),
        ({"method": {"reference_every": 2}}, r"reference_every moves a reference that nothing reads: set kl_weight"),
        ({"method": {"aggregation": "constant"}}, r"max_length go together"),
        ({"preference": {"choices": [{"a": 1.0}], "simplex": ["a"]}}, r"preference\.choices and .*simplex exclude"),
        ({"model": "x"}, r"model: .*'x'"),
        ({"method": {"tis": 0}}, r"method\.tis: .*greater than 0"),
        ({"method": {"tis": 2.0}}, r"which is 1 where π_old is what the engine returned\. Set learner\.old_logprobs"),
        ({"train__overlap": True}, r"engine\.backend 'transformers' samples with those very weights\. Use 'vllm'"),
        ({"train__overlap": True, "engine__backend": "vllm"}, r"'grpo' does not correct for that\. Set method\.tis"),
        ({"train__overlap": True, "engine__backend": "vllm", "method": {"tis": 2.0}}, r"learner\.old_logprobs = 'reco"),
        ({"train__overlap": True, "method": {"name": "sft"}}, r"train\.overlap: a run on demonstrations samples"),
        ({"train__steps__more": 1}, r"train\.steps: "),
        ({"rewards": {"watch": "outcome"}}, r'rewards\.watch is "outcome", and a list is wanted: watch'),
        ({"models": {"judge": {"max_tokns": 3}}}, r"key models\.judge\.max_tokns\. Did you mean 'max_tokens'\?"),
        ({"models": {"judge": {"server": {"ulr": ""}}}}, r"key models\.judge\.server\.ulr\. Did you mean 'url'"),
        ({"models": {"judge": {"backend": "hosted"}}}, r"models\.judge: backend 'hosted' needs server\.url and"),
        ({"models": {"judge": {"backend": "hosted", "server": {"url": "http://x", "model": "m"}, "options": {"a": 1}}}},
         r"models\.judge: template and options are not for 'hosted'"),
        ({"models": {"engine": {}}}, r"models\.engine: rewards are handed the run's own by that name"),
        ({"models": 3}, r"models: .*dictionary.*3"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_config_is_said(changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(wrong(**changes))


def test_every_problem_has_a_line():
    with pytest.raises(ValueError, match="config:") as caught:
        make_config({"env": {"id": 3}, "trane": {}})
    text = str(caught.value)
    assert len(text.splitlines()) == 4
    assert "model.path is missing: Hub id or folder" in text
    assert "env.id" in text
    assert "Did you mean 'train'?" in text


@pytest.mark.parametrize("backend", ["transformers", "vllm", "server"])
def test_training_with_a_cut_that_bounds_what_is_left(backend):
    rollout = make_config(wrong(rollout={"top_k": 64, "top_p": 0.9}, engine__backend=backend)).rollout
    assert rollout.sampling(()).gives_support


def test_overlap_with_an_engine_apart_and_a_correction():
    settings = wrong(
        train__overlap=True, engine__backend="vllm", method={"tis": 2.0}, learner__old_logprobs="recompute"
    )
    assert make_config(settings).chosen_method.corrects_sampler


def test_what_a_probe_tolerates_follows_the_dtype():
    check = make_config(wrong()).engine.check
    assert (check.largest_difference("float32"), check.largest_difference("bfloat16")) == (1e-3, 0.5)
    check = make_config(wrong(engine__check={"tolerance": 0.02})).engine.check
    assert (check.largest_difference("float32"), check.largest_difference("bfloat16")) == (0.02, 0.02)


@pytest.mark.parametrize("name", ["sft", "rft", "online_rft", "ppo"])
def test_what_compares_no_rollouts_takes_any_group_size(name):
    path = {"path": "x.jsonl"} if name == "sft" else {}
    assert make_config(wrong(rollout__group_size=1, method={"name": name}, source=path)).chosen_method.name == name


def test_overrides(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[model]\npath = "x"\n[env]\nid = "y"\n')
    config = load_config(path, ["learner.optimizer.lr=1e-5", "model.path=some/where", "rollout.stop=['a', 'b']",
                                "eval.env_options.split=test", "seed = 7"])  # fmt: skip
    assert config.learner.optimizer.lr == 1e-5
    assert config.model.path == "some/where"
    assert config.rollout.stop == ["a", "b"]
    assert config.eval.env_options == {"split": "test"}
    assert config.seed == 7
    for override, message in {
        "seed": "write section.key=value",
        "seed.x=1": "seed",
        "model.path.x=1": "'path' is no section",
        "learner.lr=1": "unknown key learner.lr",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_config(path, [override])


def test_files_that_are_not_there_or_not_toml(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config file .*nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(ValueError, match=r"bad\.toml: not valid TOML"):
        load_config(tmp_path / "bad.toml")


def test_a_saved_config_is_the_same_config(tmp_path, warm):
    config = grpo(tmp_path / "run", warm, **{"method.kl_weight": 0.1, "model.lora": "{rank = 4}"})
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config


def test_a_saved_config_shows_every_key_and_names_those_that_are_not_set(tmp_path):
    save_config(make_config(wrong(method={"clip_high": 0.28}, models={"NAME": {}})), tmp_path / "config.toml")
    text = (tmp_path / "config.toml").read_text()
    saved = tomllib.loads(text)
    assert saved["method"].items() >= {"name": "grpo", "clip_low": 0.2, "clip_high": 0.28, "kl": "k3"}.items()
    unset = text.splitlines()[0].partition("Not set: ")[2].split(", ")
    assert {"model.threads", "method.max_length", "advantage.gate", "source.path"} <= set(unset)
    for key in list_keys():
        if key.name.startswith("method.") and not key.description.startswith("grpo: "):
            continue  # of another method
        *sections, last = key.name.split(".")
        table = functools.reduce(lambda table, section: table.get(section, {}), sections, saved)
        assert last in table or any(f"{key.name}.".startswith(f"{name}.") for name in unset), key.name


def test_every_key_says_what_it_takes_and_means():
    keys = {key.name: key for key in list_keys()}
    assert (keys["models"].type, keys["models.NAME.max_tokens"].default) == ("sections by name", "1024")
    assert all(key.description for key in keys.values())
    assert (keys["model.path"].type, keys["model.path"].default) == ("text", "required")
    assert (keys["model.threads"].type, keys["model.threads"].default) == ("whole number", "not set")
    assert (keys["rollout.truncated"].type) == '"keep" or "mask" or "worst"'
    assert keys["model.lora"].type == "section"
    assert keys["model.lora.rank"].default == "16"
    defaults = {key.description[:5]: key.default for key in list_keys("method") if key.name == "method.clip_high"}
    assert defaults == {"grpo:": "0.2", "dapo:": "0.28", "gspo:": "0.0004"}
    assert {key.name for key in list_keys("learner.optimizer")} == {
        name for name in keys if name.startswith("learner.optimizer.")
    }
    with pytest.raises(ValueError, match=r"unknown key learnr\. Did you mean 'learner'\?"):
        list_keys("learnr")


@pytest.mark.parametrize(
    "url", ["http://user:hunter22@host:1", "http://:hunter22@host:1", "https://host:1?key=hunter22"]
)
def test_an_environments_address_with_a_secret_is_refused_without_repeating_it(url):
    with pytest.raises(ValueError, match=r"env\.id holds a user, a password or a query.*token_variable") as raised:
        make_config({"model": {"path": "x"}, "env": {"id": url}})
    assert "hunter22" not in str(raised.value)
