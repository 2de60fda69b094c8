"""Every series gets a decision from every route, with reasons in words."""

from __future__ import annotations

import subprocess
import sys

import pytest

from node.routing.conditions import unmet
from node.routing.decide import Decision, ModelTerms, Said, SeriesHeader, decide, study_sentence
from node.settings import Condition, Route

HEADER = {
    "Modality": "CT",
    "SeriesDescription": " Thorax  LUNG 3.0 ",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "SliceThickness": "3.0",
    "KVP": "",
}


def series(**extra: str) -> SeriesHeader:
    return SeriesHeader("1.2.3", {**HEADER, **extra}, 99, frozenset({"ct1"}))


def route(*when: Condition, peers_from: tuple[str, ...] = ()) -> Route:
    return Route("lungs", "lung-ct", when, peers_from, ("pacs",), 0)


MODELS = {"lung-ct": ModelTerms((Condition("Modality", "equals", "CT"),), 3)}


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        (Condition("Modality", "equals", "ct"), True),
        (Condition("Modality", "equals", "MR"), False),
        (Condition("ImageType", "equals", "AXIAL"), True),
        (Condition("ImageType", "equals", "ORIGINAL\\PRIMARY\\AXIAL"), True),
        (Condition("ImageType", "lacks", "LOCALIZER"), True),
        (Condition("ImageType", "lacks", "axi"), False),
        (Condition("SeriesDescription", "contains", "lung"), True),
        (Condition("SeriesDescription", "like", "thorax*3.0"), True),
        (Condition("SeriesDescription", "like", "thorax"), False),
        (Condition("SliceThickness", "at_most", 3.0), True),
        (Condition("SliceThickness", "at_least", 3.1), False),
        (Condition("Manufacturer", "at_least", 1.0), False),
        (Condition("Manufacturer", "not", "GE"), True),
        (Condition("Manufacturer", "equals", "GE"), False),
        (Condition("KVP", "present", False), True),
        (Condition("KVP", "present", True), False),
        (Condition("Modality", "one_of", ("MR", "CT")), True),
        (Condition("Modality", "one_of", ("MR", "PT")), False),
    ],
)
def test_a_condition_holds_exactly_when_the_header_says_so(condition: Condition, met: bool) -> None:
    assert (unmet(condition, HEADER) is None) is met


def test_a_matching_series_runs() -> None:
    (decision,) = decide(series(), [route(Condition("Modality", "equals", "CT"))], MODELS)
    assert decision.said is Said.RUN


def test_a_series_that_does_not_match_is_told_every_unmet_condition() -> None:
    wanted = route(
        Condition("BodyPartExamined", "equals", "CHEST"),
        Condition("SliceThickness", "at_most", 2.0),
        peers_from=("ct2",),
    )
    (decision,) = decide(series(), [wanted], MODELS)
    assert decision.said is Said.NO_MATCH
    assert decision.reasons == (
        "It came from ct1, wanted ct2.",
        "BodyPartExamined is absent, wanted 'CHEST'",
        "SliceThickness is '3.0', wanted at most 2",
    )


def test_the_models_card_can_refuse_what_the_route_wants() -> None:
    (decision,) = decide(series(Modality="MR"), [route()], MODELS)
    assert decision.said is Said.NOT_ACCEPTED
    assert "lung-ct: Modality is 'MR', wanted 'CT'" in decision.reasons


def test_too_few_images_are_refused_but_one_multi_frame_instance_is_not() -> None:
    single = SeriesHeader("1.2.3", HEADER, 1, frozenset())
    assert decide(single, [route()], MODELS)[0].said is Said.NOT_ACCEPTED
    frames = SeriesHeader("1.2.3", {**HEADER, "NumberOfFrames": "60"}, 1, frozenset())
    assert decide(frames, [route()], MODELS)[0].said is Said.RUN


def test_a_route_to_an_unknown_model_says_so() -> None:
    (decision,) = decide(series(), [route()], {})
    assert "not among the models" in decision.reasons[0]


def test_what_this_node_made_is_never_routed_back_into_it() -> None:
    own = series(Modality="SEG", Manufacturer="Limner")
    (decision,) = decide(own, [route()], {"lung-ct": ModelTerms((), 1)})
    assert decision.said is Said.NO_MATCH


def test_without_routes_the_decision_says_what_to_add() -> None:
    (decision,) = decide(series(), [], MODELS)
    assert "[[routes]]" in decision.reasons[0]
    assert "[[routes]]" in study_sentence([decision])


def test_a_study_that_fits_no_route_gets_a_sentence() -> None:
    decision = Decision("1.2", "r", "m", Said.NO_MATCH, ("x",))
    assert "No route fits" in study_sentence([decision])


def test_routing_is_pure_and_never_imports_torch_or_storage() -> None:
    code = (
        "import sys, node.routing.decide; "
        "bad = {'torch', 'storage', 'sqlalchemy', 'socket'} & set(sys.modules); "
        "print(sorted(bad - {'socket'})); sys.exit(bool(bad - {'socket'}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
