"""The arms of a trial -> the regimens to simulate: each arm, and what the null models of its combination need."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, UInt32

from vtrial.base import Regimens


def drug_hash(drugs: Sequence[str]) -> UInt32[Array, " R"]:
    """Numbers of the drugs' canonical names, the same on every machine (host side)."""
    return jnp.asarray([zlib.crc32(drug.encode()) for drug in drugs], jnp.uint32)


def _combination_hash(drugs: Iterable[str]) -> int:
    """Number of a set of drugs given together, whatever their order."""
    return zlib.crc32("\n".join(sorted(drugs)).encode())


def lay_out(
    drugs: Sequence[str], arms: Sequence[Sequence[str]], discontinuation: Sequence[float] | None = None
) -> Regimens:
    """The regimens to simulate: the arms in their order, then what the null models of every combination need.

    A combination of n drugs adds n regimens of one drug each at the doses of the arm (independent action, best single)
    and one of all its drugs under Bliss. Effect curves are picked by `arm`: ``exposure[:, regimens.arm]``.

    Parameters
    ----------
    drugs
        All drugs of the cohort, in the order of axis R.
    arms
        Drugs of each arm; an arm without drugs is allowed.
    discontinuation
        Hazard of leaving in each arm, and in its null models, over that of the law; None, or 1 throughout: no change.

    Raises
    ------
    ValueError
        If an arm has a drug that is not in `drugs`, or one twice.
    """
    rows = [(arm, tuple(members), False) for arm, members in enumerate(arms)]
    parts: dict[int, list[int]] = {}
    for arm, members in enumerate(arms):
        unknown = [drug for drug in members if drug not in drugs]
        if unknown or len(set(members)) < len(members):
            raise ValueError(f"arm {arm}: got the drugs {list(members)}; allowed are {list(drugs)}, each once")
        if len(members) > 1:
            parts[arm] = list(range(len(rows), len(rows) + len(members)))
            rows += [(arm, (drug,), False) for drug in members] + [(arm, tuple(members), True)]
    ratio = None
    if discontinuation is not None and any(one != 1.0 for one in discontinuation):
        ratio = jnp.asarray([discontinuation[arm] for arm, _, _ in rows], jnp.float32)
    return Regimens(
        present=jnp.asarray([[drug in members for drug in drugs] for _, members, _ in rows], bool),
        bliss=jnp.asarray([bliss for _, _, bliss in rows], bool),
        parts=jnp.asarray([[j in parts.get(k, ()) for j in range(len(rows))] for k in range(len(rows))], bool),
        arm=jnp.asarray([arm for arm, _, _ in rows], jnp.int32),
        drug_hash=drug_hash(drugs),
        combination_hash=jnp.asarray([_combination_hash(members) for _, members, _ in rows], jnp.uint32),
        discontinuation=ratio,
    )
