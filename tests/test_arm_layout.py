"""Arms -> regimens: what is simulated beside the arms, and the numbers of names."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from vtrial.arm_layout import drug_hash, lay_out


def test_hashes_are_the_same_on_every_machine():
    laid_out = lay_out(["avutometinib"], [["avutometinib"]])
    assert int(drug_hash(["avutometinib"])[0]) == zlib.crc32(b"avutometinib") == int(laid_out.drug_hash[0])
    one, two = (lay_out(drugs, [drugs]).combination_hash[0] for drugs in (["x", "y"], ["y", "x"]))
    assert one == two


def test_lay_out_adds_what_the_null_models_need():
    regimens = lay_out(["a", "b", "c"], [["c"], ["b", "a"], []])
    assert regimens.present.tolist() == [
        [False, False, True],
        [True, True, False],
        [False, False, False],
        [False, True, False],  # b alone at the doses of arm 1
        [True, False, False],  # a alone
        [True, True, False],  # Bliss
    ]
    assert regimens.bliss.tolist() == [False] * 5 + [True]
    assert regimens.arm.tolist() == [0, 1, 2, 1, 1, 1]
    assert np.argwhere(regimens.parts).tolist() == [[1, 3], [1, 4]]
    # the Bliss row is the same set of drugs
    assert regimens.combination_hash[1] == regimens.combination_hash[5] != regimens.combination_hash[3]


@pytest.mark.parametrize("arm", [["a", "d"], ["a", "a"]])
def test_lay_out_refuses_unknown_and_double_drugs(arm):
    with pytest.raises(ValueError, match=r"arm 1: got the drugs .*allowed are \['a', 'b'\], each once"):
        lay_out(["a", "b"], [["a"], arm])
