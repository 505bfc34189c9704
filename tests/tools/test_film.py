import jax
import pytest
from PIL import Image

import jtrpo
from jtrpo.tools.cli import main
from jtrpo.tools.film import Film
from jtrpo.tools.run import run_training
from jtrpo.tools.watch import play
from tests.probes import DISCRETE
from tests.tools.test_watch import Countdown, Drawn

CONFIG = jtrpo.TrainConfig(
    Drawn(DISCRETE), num_envs=2, num_steps=8, total_timesteps=80, hidden_sizes=(4,), critic_minibatches=2
)


def test_every_so_many_updates_there_is_a_picture_of_the_policy_of_that_update(tmp_path):
    seen, states = [], {}
    film = Film(CONFIG, 2, tmp_path / "film", shown=[lambda step, file: seen.append((step, file))])

    def on_state(update, state):
        states[update] = jax.device_get(state._replace(key=None, env_state=None))
        film(update, state)

    run = run_training(CONFIG, on_state=on_state)
    files = sorted((tmp_path / "film").iterdir())
    assert [file.name for file in files] == ["update-000002.gif", "update-000004.gif"]
    assert seen == [(32, files[0]), (64, files[1])]
    assert list(states) == [1, 2, 3, 4, 5]
    assert run.summary["max_kl_seen"] > 0  # and it learned meanwhile
    with Image.open(files[0]) as picture:
        assert picture.n_frames == 7
    assert play(CONFIG, states[2], jax.random.key(0)).returns[-1] == 14.0


def test_what_cannot_be_drawn_is_refused_before_training(tmp_path):
    config = jtrpo.TrainConfig(Countdown(DISCRETE))
    with pytest.raises(ValueError, match=r"cannot be drawn: .* a method `render\(state\)`"):
        Film(config, 2, tmp_path / "film")
    assert not list(tmp_path.iterdir())


def test_a_number_of_updates_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"every must be .*; got 0"):
        Film(CONFIG, 0, tmp_path / "film")
    assert not list(tmp_path.iterdir())


def test_the_command_needs_a_folder(capsys):
    with pytest.raises(SystemExit):
        main(["train", "CartPole-v1", "--watch-every", "5"])
    assert "watch_every needs a folder for its pictures; give --checkpoint-dir" in capsys.readouterr().err


@pytest.mark.slow
def test_the_pictures_reach_the_folder_and_tensorboard(tmp_path):
    pytest.importorskip("pygame")
    pytest.importorskip("tensorboardX")
    settings = ["--total-timesteps", "600", "--num-envs", "4", "--num-steps", "64", "--hidden-sizes", "8", "--quiet"]
    places = ["--checkpoint-dir", str(tmp_path / "run"), "--tensorboard", str(tmp_path / "log")]
    main(["train", "CartPole-v1", *settings, *places, "--watch-every", "2"])
    (file,) = (tmp_path / "run" / "film").iterdir()
    assert file.name == "update-000002.gif"
    assert file.read_bytes() in b"".join(log.read_bytes() for log in (tmp_path / "log").iterdir())
