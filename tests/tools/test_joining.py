import pytest

from jtrpo.tools.cli import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--distributed", "--process-id", "0"), "coordinator, num_processes is missing"),
        (
            ("--distributed", "--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"),
            "process_id must be below num_processes = 2; got 2",
        ),
        (("--devices", "3"), "devices must be at most the 1 that JAX sees here; got 3"),
    ],
)
def test_what_cannot_be_joined_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "CartPole-v1", *arguments])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
