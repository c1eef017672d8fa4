import pickle

from cluster.failures import Failure, RankFailed, first


def failure(cause, rank, time):
    return Failure(cause=cause, rank=rank, time=time, error="")


def test_the_earliest_error_is_told():
    assert first([failure("error", 0, 2.0), failure("error", 3, 1.0)]).rank == 3


def test_a_vanished_process_explains_its_peers_errors_though_it_told_no_time():
    assert first([failure("error", 0, 1.0), failure("killed", 2, float("inf"))]).rank == 2


def test_an_error_for_the_user_to_mend_comes_before_everything_that_followed_from_it():
    ended = [failure("killed", 0, float("inf")), failure("refused", 1, 5.0)]
    assert first(ended).rank == 1


def test_a_rank_s_failure_survives_the_way_to_the_driver():
    sent = RankFailed(
        rank=3,
        time=1.5,
        summary="CudaError: out of memory",
        refused=False,
        details="Traceback ...",
    )
    got = pickle.loads(pickle.dumps(sent))
    assert vars(got) == vars(sent)
    assert str(got) == "CudaError: out of memory"
