import json

import pytest

from jtrpo.tools.cli import main

TINY = ["--total-timesteps", "600", "--num-envs", "4", "--num-steps", "64", "--hidden-sizes", "8"]


@pytest.mark.slow
def test_train_ends_with_the_summary_as_json_and_a_picture(tmp_path, capsys):
    picture = tmp_path / "curve.png"
    main(["train", "CartPole-v1", "--seed", "3", "--json", "--plot", str(picture), *TINY])
    out, err = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    assert set(summary) == {
        "env", "seed", "total_timesteps", "evaluation_return", "evaluation_std", "steps_per_second",
        "compile_seconds", "run_seconds", "accepted_fraction", "max_kl_seen", "refused", "critic_refused", "invalid_samples",
    }  # fmt: skip
    assert (summary["env"], summary["seed"], summary["total_timesteps"]) == ("CartPole-v1", 3, 768)
    assert summary["evaluation_return"] >= 8
    assert 0 < summary["max_kl_seen"] <= 0.01  # what ships for CartPole
    assert "768 steps" in err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_options_reach_the_settings(capsys, monkeypatch):
    main(["train", "CartPole-v1", "--json", "--max-kl", "0.0001", *TINY])
    assert 0 < json.loads(capsys.readouterr().out)["max_kl_seen"] <= 0.0001

    def no_more(config, *_, **__):
        assert (config.cg_iterations, config.num_envs, config.hidden_sizes) == (2, 4, (8,))
        raise ValueError("these are the settings")

    monkeypatch.setattr("jtrpo.tools.commands.train.run_training", no_more)
    with pytest.raises(SystemExit):
        main(["train", "CartPole-v1", "--cg-iterations", "2", *TINY])
    assert "these are the settings" in capsys.readouterr().err


def test_a_saved_run_is_evaluated_resumed_and_kept(tmp_path, capsys):
    folder = tmp_path / "run"
    run = ["train", "CartPole-v1", "--checkpoint-dir", str(folder), "--json", "--env-metrics", "discount", *TINY]
    main(run)
    trained = json.loads(capsys.readouterr().out)
    main(["evaluate", str(folder), "--episodes", "8", "--json"])
    scored = json.loads(capsys.readouterr().out)
    assert (scored["env"], scored["update"], scored["episodes"]) == ("CartPole-v1", 3, 8)
    assert scored["deterministic_return"] >= 8
    discount = {part: scored[f"deterministic_metrics.discount.{part}"] for part in ("sum", "last")}
    assert discount["sum"] == scored["deterministic_return"] - 1 + discount["last"]  # zero where the pole falls
    main(["evaluate", str(folder), "--episodes", "8"])
    told = capsys.readouterr().out
    assert f"return {scored['deterministic_return']:.1f}" in told
    assert f"\ndeterministic_metrics.discount.last: {discount['last']:.4g}\n" in told
    main([*run, "--resume"])
    out, err = capsys.readouterr()
    assert json.loads(out)["evaluation_return"] == trained["evaluation_return"]
    assert "going on after update 3" in err
    for more, words in (
        ([], ["already holds checkpoints, up to update 3", "add --resume"]),
        (["--resume", "--seed", "1"], ["seed is 0 there and 1 here"]),
        (["--resume", "--gamma", "0.5"], ["gamma is 0.99 there and 0.5 here"]),
    ):
        with pytest.raises(SystemExit) as caught:
            main([*run, *more])
        assert caught.value.code == 2
        text = capsys.readouterr().err
        assert all(word in text for word in words), text


@pytest.mark.long  # of parts that are tested in tests/training/test_host.py and here
def test_gymnasium_trains_saves_resumes_and_is_evaluated(tmp_path, capsys):
    folder = tmp_path / "run"
    run = ["train", "gymnasium:CartPole-v1", "--checkpoint-dir", str(folder), "--json", *TINY]
    main(run)
    trained = json.loads(capsys.readouterr().out)
    assert (trained["env"], trained["total_timesteps"]) == ("gymnasium:CartPole-v1", 768)
    assert trained["evaluation_return"] >= 8
    main([*run, "--total-timesteps", "1024", "--resume"])
    out, err = capsys.readouterr()
    assert json.loads(out)["total_timesteps"] == 1024
    assert "going on after update 3" in err
    main(["evaluate", str(folder), "--episodes", "4", "--json"])
    assert json.loads(capsys.readouterr().out)["deterministic_return"] >= 8


def test_training_logs_to_tensorboard_and_says_what_it_wrote(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    events, picture = tmp_path / "events", tmp_path / "curve.png"
    main(["train", "CartPole-v1", "--quiet", "--tensorboard", str(events), "--plot", str(picture), *TINY])
    assert list(events.iterdir())
    assert capsys.readouterr().out.splitlines()[-1] == f"see {picture}"
